"""Interfaces as ethtool and rtnetlink show them: kind, addresses, and offloads."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mcrd.host.netlink import asking
from mcrd.planning.links import Link
from mcrd.planning.names import by_name


class Feature(NamedTuple):
    """An offload; one that is not `free` stays as it is.

    One that is off and `wanted` was asked for: the kernel keeps it off for the lack of another.
    """

    on: bool
    free: bool
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """An interface. `kind` is as in `ip link add type KIND`, "" for hardware.

    `vlans` are those that have an interface of their own above it. `ipv4`: it has an address.
    """

    name: str
    kind: str = ""
    vlans: frozenset[int] = frozenset()
    ipv4: bool = True
    features: Mapping[str, Feature] = field(default_factory=dict)

    def has(self, feature: str) -> bool:
        """Whether it is on."""
        return feature in self.features and self.features[feature].on

    def could(self, feature: str) -> bool:
        """Whether it is off, and can be turned on."""
        return feature in self.features and self.features[feature] == Feature(False, True)

    def withheld(self, feature: str) -> bool:
        """Whether it is off although somebody asked for it."""
        return feature in self.features and self.features[feature] == Feature(False, True, True)


def links() -> dict[str, Link]:
    """The interfaces of this host by each of their names, without addresses. Raises OSError."""
    from mcrd.host.links import link_of  # noqa: PLC0415  slow, and nothing else needs it

    with asking() as netlink:
        return by_name(link_of(message, ()) for message in netlink.get_links())


def devices(names: Iterable[str]) -> dict[str, Device]:
    """The named interfaces that exist. Raises OSError."""
    with asking() as netlink:
        links = {link["index"]: link for link in netlink.get_links()}
        addressed = {address["index"] for address in netlink.get_addr(family=socket.AF_INET)}
    vlans: dict[int, set[int]] = {}
    kinds: dict[int, str] = {}
    for index, link in links.items():
        about = link.get("linkinfo")
        kinds[index] = (about.get("kind") if about else None) or ""
        if kinds[index] == "vlan" and (data := about.get("data")) is not None:
            vlans.setdefault(link.get("link"), set()).add(data.get("vlan_id"))
    indices = {link.get("ifname"): index for index, link in links.items()}
    return {
        name: Device(
            name,
            kinds[indices[name]],
            frozenset(vlans.get(indices[name], ())),
            indices[name] in addressed,
            features(name),
        )
        for name in names
        if name in indices
    }


def features(name: str) -> dict[str, Feature]:
    """The features by their names in `ethtool -k`; empty where the driver tells none."""
    from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool  # noqa: PLC0415

    with contextlib.closing(IoctlEthtool(name)) as tool:
        try:
            found = tool.get_features()
        except (OSError, EthtoolError):
            return {}
        return {
            feature: Feature(
                found.is_active(feature),
                found.is_available(feature) and not found.is_never_changed(feature),
                found.is_requested(feature) and not found.is_active(feature),
            )
            for feature in found.keys()  # noqa: SIM118  # its iteration gives more
            if feature
        }


def switch(name: str, wanted: Iterable[str], *, on: bool) -> None:
    """Switch these features of an interface on or off; raise OSError."""
    from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool, NoSuchDevice  # noqa: PLC0415

    with contextlib.closing(IoctlEthtool(name)) as tool:
        try:
            found = tool.get_features()
            for feature in wanted:
                if feature not in found.keys():  # noqa: SIM118  # an older kernel
                    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
                found.set_value(feature, on)
            tool.set_features(found)
        except NoSuchDevice:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
        except EthtoolError:  # its only words are the name
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None
