"""Settings of the network stack that the rules depend on."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping

from mcrd.doctor.demand import Demand
from mcrd.doctor.finding import Finding, Verdict, in_unit, setting, unreadable
from mcrd.host.devices import Device
from mcrd.host.procfs import NET, Host, Running
from mcrd.host.protocols import NAMES, SYSCTL
from mcrd.sockets.reports import LATEST
from mcrd.words import few

PORTS_SHOWN = 8
MANY_HOSTS = 128  # outputs to fewer do not fill a table of neighbours


def memberships(host: Host, demand: Demand) -> list[Finding]:
    """Check the limit of memberships: the daemon joins over many sockets, so only 0 is too small.

    The sysctls igmp_max_msf and mld_max_msf, for sources, never are: the first of a socket always
    goes (tried: 0 and two sources).
    """
    groups, name = demand.groups(4), "net.ipv4.igmp_max_memberships"
    if groups == 0:
        return []
    value = host.sysctl(name)
    if value is None:
        return [unreadable("memberships", name, "not there")]
    shown = f"{name} = {value}, {groups} to join"
    if value > 0:
        return [Finding("memberships", "ok", shown)]
    why = "no group can be joined, so a switch that snoops sends none"
    return [Finding("memberships", "trouble", shown, why, setting(name, 20))]


def igmp_version(host: Host, demand: Demand, running: Running) -> list[Finding]:
    """Check forced versions: older ones know no sources, and the first not even a leave.

    What the rule file asks for, the daemon sets where it may, and that is not here to be seen.
    """
    found = []
    wanted = False
    all_of_mld = host.sysctl(SYSCTL[6].format("all"))
    for version, newest in LATEST.items():
        by_source = demand.joining(version, by_source=True)
        for interface in ("all", *demand.inputs()):
            path = SYSCTL[version].format(interface)
            value = host.sysctl(path)
            spoken = demand.spoken(interface, version)
            if spoken is not None:
                wanted = True
                found += _asked_for(interface, version, value, spoken, running)
            if not value or value >= newest:
                continue
            if version == 6 and interface != "all" and all_of_mld:
                continue  # that of all goes before; of IGMP, both count
            concerned = by_source if interface == "all" else by_source & {interface}
            if not concerned and (version == 6 or value > 1):
                continue
            why = (
                "groups with sources are joined from any source"
                if concerned
                else "IGMPv1 has no leave: the network sends on for minutes"
            )
            remedy = setting(path, 0)
            if spoken == value:
                remedy = f"no {NAMES[version]} under [interfaces.{interface}], or no sources"
            found.append(Finding("group protocol", "trouble", f"{path} = {value}", why, remedy))
    fine = "as the rule file asks" if wanted else "no older version is forced"
    return found or [Finding("group protocol", "ok", fine)]


def _asked_for(
    interface: str, version: int, value: int | None, spoken: int, running: Running
) -> list[Finding]:
    """What is not as the rule file has it; the newest is spoken where none is forced."""
    if value == spoken or (value == 0 and spoken == LATEST[version]):
        return []
    path = SYSCTL[version].format(interface)
    shown = f"{path} = {'not there' if value is None else value}"
    why = f"{NAMES[version]} = {spoken} under [interfaces.{interface}] needs it"
    verdict: Verdict = "trouble"
    if running.status is None:
        verdict, why = "unknown", f"{why}; mcrd sets it where it may"
    return [Finding("group protocol", verdict, shown, why, setting(path, spoken))]


def neighbours(host: Host, demand: Demand) -> list[Finding]:
    """Check the neighbour tables, if many outputs go to hosts; they are the whole machine's."""
    found = []
    for version, family in ((4, "ipv4"), (6, "ipv6")):
        hosts = demand.hosts(version)
        if hosts < MANY_HOSTS:
            continue
        names = [f"net.{family}.neigh.default.gc_thresh{number}" for number in (2, 3)]
        soft, hard = map(host.sysctl, names)
        why = "packets to a host without an entry are lost until it is found again"
        if soft is None or hard is None:
            reason = "not there; a container cannot see the machine's"
            found.append(unreadable("neighbours", names[1], reason, why))
            continue
        value = f"outputs to {hosts} IPv{version} hosts, gc_thresh2 = {soft}, gc_thresh3 = {hard}"
        if hosts < soft:
            found.append(Finding("neighbours", "ok", value))
        else:
            enough = 1 << hosts.bit_length()
            remedy = f"{setting(names[1], 4 * enough)} {names[0]}={2 * enough}"
            found.append(Finding("neighbours", "trouble", value, why, remedy))
    return found


def reverse_path(host: Host, demand: Demand, devices: Mapping[str, Device]) -> list[Finding]:
    """Check rp_filter: it takes no stream from the relay, but may drop queries of IGMP.

    These pass when the route back to who asks leads over their interface; with 2, over any. Without
    an address there, only the first counts (fib_validate_source(); queries of 0.0.0.0 pass).
    """
    every = host.sysctl("net.ipv4.conf.all.rp_filter") or 0
    own = {name: host.sysctl(f"net/ipv4/conf/{name}/rp_filter") for name in demand.inputs()}
    values = {name: max(every, value) for name, value in own.items() if value is not None}
    if not values:
        return []
    asked = {name for name in demand.joining(4) if values.get(name)}
    routed = {line.split("\t")[0] for line in host.lines(f"{NET}/route")[1:]}
    deaf = [
        name
        for name in values
        if name in asked and name in devices and not devices[name].ipv4 and name not in routed
    ]
    found: list[Finding] = []
    why = (
        "a query of IGMP has no route back over an interface without an address: the kernel drops"
        " it and reports no group, so a switch that snoops ends the stream after minutes"
    )
    for name in deaf:
        value = f"{values[name]} on {name}, which has no IPv4 address"
        remedy = setting(f"net/ipv4/conf/{name}/rp_filter", 0)
        if every:  # the greater of both counts
            remedy += " net/ipv4/conf/all/rp_filter=0"
        found.append(Finding("rp_filter", "trouble", value, why, remedy))
    if found:
        return found
    shown = ", ".join(f"{value} on {name}" for name, value in values.items())
    why = "mcrd takes streams before the kernel applies it"
    if asked:
        why += "; only queries of IGMP are dropped, from an address with no route back to it"
    return [Finding("rp_filter", "ok", shown, why)]


def low_ports(host: Host, running: Running, demand: Demand) -> list[Finding]:
    """Check low ports; silent if the daemon may bind them."""
    check, name = "low ports", "net.ipv4.ip_unprivileged_port_start"
    own = host.sysctl(name)
    first = 1024 if own is None else own
    ports = demand.low_ports(first)
    if not ports or running.may("net_bind_service"):
        return []
    value = f"{few(ports, PORTS_SHOWN, ', and more')}, below {name} = {first}"
    why = (
        "without CAP_NET_BIND_SERVICE an output with such a source_port fails, and senders hear"
        " that the port of a host input is closed"
    )
    rights = "CAP_NET_RAW CAP_NET_BIND_SERVICE"
    remedy = in_unit(f"AmbientCapabilities={rights} and CapabilityBoundingSet={rights}")
    verdict: Verdict = "trouble" if running.status is not None else "unknown"
    return [Finding(check, verdict, value, why, remedy)]


def ipv6(host: Host, demand: Demand) -> list[Finding]:
    """Check IPv6; silent unless it is needed and off."""
    names, check = demand.ipv6_interfaces(), "IPv6"
    if not names:
        return []
    if not host.exists("proc/sys/net/ipv6") and host.exists("proc/sys/net/ipv4"):
        why = "the rules have IPv6 addresses"
        remedy = "ipv6.disable=0 on the kernel's command line"
        return [Finding(check, "trouble", "the kernel has none", why, remedy)]
    why = "it has no IPv6 address then and joins no group; set the addresses that it had again"
    return [
        Finding(check, "trouble", f"{path} = 1", why, setting(path, 0))
        for path in (f"net/ipv6/conf/{name}/disable_ipv6" for name in names)
        if host.sysctl(path) == 1
    ]
