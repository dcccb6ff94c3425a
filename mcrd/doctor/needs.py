"""What a rule file takes of the host: numbers, from its values alone."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mcrd.model import (
    BROADCAST,
    LIMITED_BROADCAST,
    Address,
    Config,
    Input,
    Interface,
    Network,
    PortRange,
    Rule,
)
from mcrd.planning.needs import HELD_AT_MOST, JOINED_AT_MOST
from mcrd.sockets.common import KEPT
from mcrd.sockets.ingress import LARGE_LEAST, LARGE_SHARE

WORKER_DESCRIPTORS = 10
WORKER_MEMORY = 18 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """The needs of the enabled rules."""

    config: Config

    def rules(self) -> Iterator[Rule]:
        """The rules that are enabled."""
        return (rule for rule in self.config.rules.values() if rule.enabled)

    def inputs(self) -> list[str]:
        """Interfaces, in the order of the file."""
        return list(dict.fromkeys(rule.input.interface for rule in self.rules()))

    def outputs(self) -> list[str]:
        """Interfaces, in the order of the file, without those that routes lead to."""
        outputs = (output for rule in self.rules() for output in rule.outputs)
        return list(dict.fromkeys(o.interface for o in outputs if o.interface is not None))

    def workers(self, interface: str) -> int:
        """The number of workers of an interface."""
        return self._settings(interface).workers

    def ring_size(self, interface: str) -> int:
        """The ring size in bytes, of each worker of an interface."""
        return self._settings(interface).ring_size

    def members_of(self, interface: str) -> int:
        """How many members each worker of an interface may have."""
        return self._settings(interface).members

    def memory(self, interface: str) -> int:
        """Bytes that one worker of the interface takes, with its two rings."""
        size = self.ring_size(interface)
        return WORKER_MEMORY + size + max(LARGE_LEAST, size // LARGE_SHARE)

    def spoken(self, interface: str, version: int) -> int | None:
        """The version of IGMP or MLD that the rule file has for it, where it joins such groups."""
        table = self._settings(interface)
        spoken = table.igmp_version if version == 4 else table.mld_version
        return spoken if interface in self.joining(version) else None

    def _settings(self, interface: str) -> Interface:
        return self.config.interfaces.get(interface, Interface())

    def groups(self, version: int) -> int:
        """Groups that are joined, once for each interface."""
        joined: dict[tuple[str, Address | Network], int] = {}
        for rule in self.rules():
            given = rule.input
            if given.address.version == version and is_joined(given):
                joined[given.interface, given.address] = _addresses(given.address)
        return sum(joined.values())

    def joining(self, version: int) -> set[str]:
        """Interfaces on which groups are joined."""
        return {
            rule.input.interface
            for rule in self.rules()
            if rule.input.address.version == version and is_joined(rule.input)
        }

    def ipv6_interfaces(self) -> list[str]:
        """Interfaces that need IPv6: for joins, for neighbours that ask, and for what is sent."""
        found: dict[str, None] = {}
        for rule in self.rules():
            given = rule.input
            asked = is_joined(given) or not (given.address.is_multicast or given.vlan is not None)
            if given.address.version == 6 and asked:
                found[given.interface] = None
            outputs = (o.interface for o in rule.outputs if o.address.version == 6)
            found |= {name: None for name in outputs if name is not None}
        return list(found)

    def single_sources(self, version: int) -> list[tuple[str, int]]:
        """Interface and number of sources of each input that joins for these alone (SSM)."""
        return [
            (rule.input.interface, len(rule.input.sources))
            for rule in self.rules()
            if rule.input.address.version == version and is_joined(rule.input)
            if rule.input.sources and all(s.num_addresses == 1 for s in rule.input.sources)
        ]

    def descriptors(self, groups_by_socket: int) -> int:
        """About the descriptors of the daemon, without members of ranges and kept sources."""
        total = KEPT
        for interface in self.inputs():
            total += self.workers(interface) * WORKER_DESCRIPTORS
        for rule in self.rules():
            fixed = 0 if rule.input.is_range else sum(o.source != "keep" for o in rule.outputs)
            total += self.workers(rule.input.interface) * fixed
            total += _receptions(rule.input)
        return total + -(-(self.groups(4) + self.groups(6)) // max(1, groups_by_socket))

    def members(self) -> int:
        """Sockets that outputs get as packets come, at most: of ranges and of kept sources."""
        found: dict[str, list[tuple[int, int]]] = {}
        for rule in self.rules():
            given, kept = rule.input, sum(output.source == "keep" for output in rule.outputs)
            outputs = len(rule.outputs) if given.is_range else kept
            range_of = _addresses(given.address) * _ports(given)
            members = self.members_of(given.interface) if kept else range_of
            if outputs:
                found.setdefault(given.interface, []).append((members, outputs))
        return sum(
            self.workers(interface)
            * min(
                sum(m * o for m, o in counts),
                self.members_of(interface) * max(o for _, o in counts),
            )
            for interface, counts in found.items()
        )

    def low_ports(self, first: int) -> list[int]:
        """Ports below the first that everybody may bind: source ports, and ports held for hosts."""
        found = set()
        for rule in self.rules():
            found |= {o.source_port for o in rule.outputs if o.source_port is not None}
            given = rule.input
            if is_held(given) and given.protocol == "udp":
                found.add(given.port if isinstance(given.port, int) else given.port.first)
        return sorted(port for port in found if port < first)

    def hosts(self, version: int) -> int:
        """Neighbours that outputs may send to; ranges with all that a worker has room for."""
        found = {
            (output.interface, output.address): self.members_of(rule.input.interface)
            for rule in self.rules()
            for output in rule.outputs
            if output.address.version == version
            and not output.address.is_multicast
            and output.address not in (BROADCAST, LIMITED_BROADCAST)
        }
        return sum(min(most, _addresses(address)) for (_, address), most in found.items())


def is_joined(given: Input) -> bool:
    """Whether the host joins its groups, rather than only letting them in."""
    return (
        given.address.is_multicast
        and given.vlan is None
        and _addresses(given.address) <= JOINED_AT_MOST
    )


def is_held(given: Input) -> bool:
    """Whether its ports are held, as the kernel would answer for them."""
    everywhere = given.address in (BROADCAST, LIMITED_BROADCAST)
    return not (given.address.is_multicast or everywhere)


def _addresses(address: Address | Network) -> int:
    return 1 if isinstance(address, Address) else address.num_addresses


def _receptions(given: Input) -> int:
    """Sockets that let groups in without a join, or hold ports."""
    if is_joined(given):
        return 0
    count = _addresses(given.address)
    if not given.address.is_multicast and not is_held(given):
        return 0
    if given.address.is_multicast:
        return count if count <= JOINED_AT_MOST else 1
    return _ports(given) if _ports(given) <= HELD_AT_MOST else 0


def _ports(given: Input) -> int:
    return len(given.port) if isinstance(given.port, PortRange) else 1
