"""Offloads of the interfaces of the rules: what loses packets, and what saves CPU time.

LRO, TSO and VLAN tags taken off by the card are not looked at: the first two are of TCP, and the
kernel takes off the tags itself before mcrd sees a frame.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from mcrd.config.values import LONGEST_INTERFACE_NAME
from mcrd.doctor.demand import Demand
from mcrd.doctor.finding import Finding
from mcrd.host.devices import Device
from mcrd.host.merging import SUPER_FRAMES, WORTH_MERGING, lacking, line

SEGMENT = "tx-udp-segmentation"
CHECKSUMS = ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6")
MERGING = ("rx-udp-gro-forwarding", "rx-gro-list")
VLAN_FILTER = "rx-vlan-filter"
VIRTUAL = ("veth", "bridge", "tun", "macvlan", "ipvlan")
LOST = "before Linux 6.2 the kernel drops UDP super-frames before the ring: one each in ring_full"


def offloads(
    demand: Demand,
    devices: Mapping[str, Device],
    release: tuple[int, int] | None,
    merged: Collection[str] = (),
    rates: Mapping[str, int] = MappingProxyType({}),
) -> list[Finding]:
    """Check every interface of the rules, or say that it is missing.

    `merged` are those that `gro` is for, ports of an input among them; `rates` what came in a
    second, in packets.
    """
    found = []
    old = release is not None and release < SUPER_FRAMES
    heard = {name: rates.get(name, 0) for name in demand.inputs()}
    for name in dict.fromkeys([*demand.inputs(), *demand.outputs(), *merged]):
        check = f"offloads of {name}"
        device = devices.get(name)
        if device is None:
            why = "its rules wait for it"
            found.append(Finding(check, "unknown", "there is no such interface", why))
            continue
        these = [
            *(_input(device, check, old) if name in demand.inputs() else ()),
            *_merging(device, check, old, name in merged, heard.get(name, 0)),
            *(_tagged(device, check, demand)),
            *(_output(device, check, old) if name in demand.outputs() else ()),
        ]
        found += these or [Finding(check, "ok", "nothing harmful")]
    return found


def _merging(device: Device, check: str, old: bool, wanted: bool, rate: int) -> Iterator[Finding]:
    if wanted and old:
        yield Finding(check, "trouble", "`gro` in the rule file", LOST, "take it out")
    elif wanted and (off := lacking(device.features)):
        why = "`gro` needs it, and the daemon may set it with CAP_NET_ADMIN alone"
        yield Finding(check, "trouble", f"{' and '.join(off)} off", why, line(device.name, off))
    elif not wanted and not old and rate >= WORTH_MERGING:
        why = "to merge datagrams of a flow takes half the CPU time; other programs see it too"
        remedy = f"gro = true under [interfaces.{device.name}] of the rule file: mcr.toml(5)"
        yield Finding(check, "ok", f"{rate} packets/s without `gro`", why, remedy)


def _input(device: Device, check: str, old: bool) -> Iterator[Finding]:
    if not old:
        return
    for feature in MERGING:
        if device.has(feature):
            remedy = f"{_ethtool(device)} {feature} off"
            yield Finding(check, "trouble", f"{feature} is on", LOST, remedy)
    if device.kind in VIRTUAL:
        why = f"{LOST}; it is not visible here whether its other end sends them uncut"
        remedy = f"on the interface that sends into it: ethtool -K NAME {SEGMENT} off"
        yield Finding(check, "unknown", f"a {device.kind}", why, remedy)


def _tagged(device: Device, check: str, demand: Demand) -> Iterator[Finding]:
    """Check tags: a card that filters lets in only VLANs that have an interface."""
    wanted = {
        rule.input.vlan
        for rule in demand.rules()
        if rule.input.interface == device.name and rule.input.vlan
    }
    missing = sorted(wanted - device.vlans)
    if not missing or not device.has(VLAN_FILTER):
        return
    shown = ", ".join(map(str, missing))
    value = f"{VLAN_FILTER} is on, without an interface for VLAN {shown}"
    why = "the card may drop frames of VLANs that it was not told of"
    remedy = (
        f"{_ethtool(device)} {VLAN_FILTER} off"
        if device.features[VLAN_FILTER].free
        else "; ".join(_vlan_interface(device, vlan) for vlan in missing)
    )
    yield Finding(check, "trouble", value, why, remedy)


def _vlan_interface(device: Device, vlan: int) -> str:
    """The remedy: an interface makes the card know its VLAN, even when it is down."""
    name = f"{device.name}.{vlan}"
    if len(name.encode()) > LONGEST_INTERFACE_NAME:
        name = f"vlan{vlan}"
    link, name = shlex.quote(device.name), shlex.quote(name)
    return f"ip link add link {link} name {name} type vlan id {vlan}"


def _ethtool(device: Device) -> str:
    return f"ethtool -K {shlex.quote(device.name)}"


def _output(device: Device, check: str, old: bool) -> Iterator[Finding]:
    line = f"{_ethtool(device)} {SEGMENT}"
    if old and device.kind in VIRTUAL and device.has(SEGMENT):
        why = f"{LOST}: another mcrd or packet socket at its other end would miss them"
        yield Finding(check, "unknown", f"a {device.kind} with {SEGMENT}", why, f"{line} off")
        return
    if old and device.kind in VIRTUAL:
        return
    why = "with it, the card cuts a run of datagrams, which saves CPU time"
    if device.could(SEGMENT):
        yield Finding(check, "ok", f"{SEGMENT} is off", why, f"{line} on")
    elif device.withheld(SEGMENT) and any(map(device.could, CHECKSUMS)):
        value = f"{SEGMENT} is off, as the card adds no checksums"
        yield Finding(check, "ok", value, why, f"{_ethtool(device)} tx on")
