"""What a rule file takes of the host: what its rules need, counted. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

from mcrd.model import (
    BROADCAST,
    LIMITED_BROADCAST,
    Address,
    Config,
    Interface,
    Network,
    PortRange,
    Rule,
)
from mcrd.planning.links import Link, Lookup, Way, lookup
from mcrd.planning.needs import HEARD_ON, needs
from mcrd.planning.receptions import is_by_members
from mcrd.planning.resources import (
    Egress,
    GroupProtocol,
    Hold,
    Members,
    Membership,
    Reception,
    Resource,
    Worker,
)
from mcrd.sockets.common import KEPT
from mcrd.sockets.ingress import large_size

WORKER_DESCRIPTORS = 10
WORKER_MEMORY = 18 << 20
ROUTED = "routes"
"""The interface that all routes lead to."""
OWN = (ip_address("0.0.0.0"), ip_address("::"))
"""Addresses of every interface, in no range of a rule."""


class Demand:
    """What the enabled rules need of a host that has every interface, address and route for them.

    Rules that share a resource take it once.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        links, ways = _host_for(list(self.rules()))
        self._needs = [(rule, needs(rule, config, links, ways)) for rule in self.rules()]
        self._all: set[Resource] = set()
        for _, entry in self._needs:
            self._all.update(entry.required, entry.optional)
            self._all.update(*(relay.outputs for relay in entry.whole.values()))

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

    def settings(self, interface: str) -> Interface:
        """What the rule file says of an interface, or the defaults."""
        return self.config.interfaces.get(interface, Interface())

    def memory(self, interface: str) -> int:
        """Bytes that one worker of the interface takes, with its two rings."""
        settings = self.settings(interface)
        size = settings.ring_size
        return WORKER_MEMORY + size + large_size(size, settings.gro)

    def spoken(self, interface: str, version: int) -> int | None:
        """The version of IGMP or MLD that the rule file has for it, where it joins such groups."""
        protocols = (each for each in self._all if isinstance(each, GroupProtocol))
        return {(p.interface, p.version): p.spoken for p in protocols}.get((interface, version))

    def _joined(self, version: int) -> list[Membership]:
        """Memberships of inputs: not those by which members and routers are heard."""
        joined = (each for each in self._all if isinstance(each, Membership))
        heard = HEARD_ON[version]
        return [m for m in joined if m.group.version == version and m.group not in heard]

    def groups(self, version: int) -> int:
        """Groups that are joined, once for each interface."""
        return len({(each.index, each.group) for each in self._joined(version)})

    def joining(self, version: int, *, by_source: bool = False) -> set[str]:
        """Interfaces on which groups are joined, or only those for single sources (SSM).

        Of these, also where groups are joined when members come, from the sources that they name.
        """
        joined = self._joined(version)
        if not by_source:
            return {each.interface for each in joined}
        inputs = (rule.input for rule in self.rules() if is_by_members(rule))
        later = {given.interface for given in inputs if given.address.version == version}
        return {each.interface for each in joined if each.source is not None} | later

    def ipv6_interfaces(self) -> list[str]:
        """Interfaces that need IPv6: for joins, for neighbours that ask, and for what is sent."""
        found: dict[str, None] = {}
        joining = self.joining(6)
        for rule in self.rules():
            given = rule.input
            asked = not given.address.is_multicast or given.interface in joining
            if given.address.version == 6 and given.vlan is None and asked:
                found[given.interface] = None
            outputs = (o.interface for o in rule.outputs if o.address.version == 6)
            found |= {name: None for name in outputs if name is not None}
        return list(found)

    def descriptors(self, groups_by_socket: int) -> int:
        """About the descriptors of the daemon, without members of ranges and kept sources."""
        workers = sum(isinstance(each, Worker) for each in self._all)
        sockets = sum(isinstance(each, Egress | Hold) for each in self._all)
        sockets += any(isinstance(each, Reception) for each in self._all)  # all have one
        joined = -(-(self.groups(4) + self.groups(6)) // max(1, groups_by_socket))
        return KEPT + workers * WORKER_DESCRIPTORS + sockets + joined

    def members(self) -> int:
        """Sockets that outputs get as packets come, at most: of ranges and of kept sources."""
        found: dict[str, list[tuple[int, int]]] = {}
        for rule, entry in self._needs:
            given, relays = rule.input, list(entry.whole.values())
            outlets = [o for one in relays[:1] for o in one.outputs if isinstance(o, Members)]
            kept = any(each.sending.source is None for each in outlets)
            ports = len(given.port) if isinstance(given.port, PortRange) else 1
            range_of = _addresses(given.address) * ports
            members = self.settings(given.interface).members if kept else range_of
            if outlets:
                found.setdefault(given.interface, []).append((members, len(outlets)))
        total = 0
        for interface, counts in found.items():
            most = self.settings(interface).members * max(o for _, o in counts)
            total += self.settings(interface).workers * min(sum(m * o for m, o in counts), most)
        return total

    def low_ports(self, first: int) -> list[int]:
        """Ports below the first that everybody may bind: source ports, and ports held for hosts."""
        found = {o.source_port for rule in self.rules() for o in rule.outputs if o.source_port}
        for _, entry in self._needs:
            held = [each for each in entry.optional if isinstance(each, Hold)]
            found |= {each.port for each in held[:1] if each.protocol == "udp"}
        return sorted(port for port in found if port < first)

    def hosts(self, version: int) -> int:
        """Neighbours that outputs may send to; ranges with all that a worker has room for."""
        found = {
            (output.interface, output.address): self.settings(rule.input.interface).members
            for rule in self.rules()
            for output in rule.outputs
            if output.address.version == version
            and not output.address.is_multicast
            and output.address not in (BROADCAST, LIMITED_BROADCAST)
        }
        return sum(min(most, _addresses(address)) for (_, address), most in found.items())


def _host_for(rules: list[Rule]) -> tuple[dict[str, Link], dict[Lookup, Way]]:
    """The links and ways of a host on which none of the rules waits for anything."""
    ends: list[tuple[str, object]] = []
    ways: dict[Lookup, Way] = {}
    for rule in rules:
        given = rule.input.address
        ends.append((rule.input.interface, isinstance(given, Network) and given.network_address))
        ends += ((output.interface or ROUTED, output.source) for output in rule.outputs)
        routed = (output for output in rule.outputs if output.interface is None)
        for asked in filter(None, (lookup(output, rule.input.protocol) for output in routed)):
            ways[asked] = Way(ROUTED, source=asked.address)
    own: dict[str, dict[object, None]] = {}
    for interface, address in ends:
        own.setdefault(interface, {}).update(dict.fromkeys((*OWN, address)))
    links = {
        name: Link(
            *(name, index, True, True, 1500, 1),
            tuple(ip_interface(each) for each in some if isinstance(each, Address)),
        )
        for index, (name, some) in enumerate(own.items(), 1)
    }
    return links, ways


def _addresses(address: Address | Network) -> int:
    return 1 if isinstance(address, Address) else address.num_addresses
