"""Programs that listen where a rule relays a discovery protocol: some of them relay it too."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import pwd
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mcrd.addresses import covers, has_port
from mcrd.beside.sight import bound
from mcrd.beside.who import Holders
from mcrd.host.procfs import Host
from mcrd.model import Address, Rule

# Ports and groups: RFC 6762, 3; UPnP Device Architecture, 1; RFC 4795, 2; WS-Discovery, 2.4;
# RFC 2608, 4.1.
_GROUPS: Mapping[str, tuple[int, Sequence[str]]] = {
    "mDNS": (5353, ("224.0.0.251", "ff02::fb", "ff05::fb")),
    "SSDP": (1900, ("239.255.255.250", "ff02::c", "ff05::c")),
    "LLMNR": (5355, ("224.0.0.252", "ff02::1:3")),
    "WS-Discovery": (3702, ("239.255.255.250", "ff02::c")),
    "SLP": (427, ("239.255.255.253", "ff02::116", "ff02::123")),
}
PROTOCOLS: Mapping[str, tuple[int, Sequence[Address]]] = {
    name: (port, tuple(map(ip_address, groups))) for name, (port, groups) in _GROUPS.items()
}
AVAHI, AVAHI_USER, AVAHI_CONF = "avahi-daemon", "avahi", "/etc/avahi/avahi-daemon.conf"
# As of /proc/PID/comm, which has 15 bytes; what they relay between is on their command line.
REFLECTORS = (
    *("mdns-repeater", "mdns-reflector", "mdns-bridge", "udpbroadcastrel", "multicast-relay"),
    *("bonjour-reflect", "ssdp-proxy", "ssdpd-relay"),
)


@dataclass(frozen=True, slots=True)
class Listener:
    """A program on the port of a rule; `relays` says how, where it does so between its networks."""

    who: str
    protocol: str
    relays: str = ""
    remedy: str = ""


def protocol_of(rule: Rule) -> str | None:
    """The discovery protocol that a rule relays."""
    given = rule.input
    for name, (port, groups) in PROTOCOLS.items() if given.protocol == "udp" else ():
        if has_port(given.port, port) and any(covers(given.address, group) for group in groups):
            return name
    return None


def listeners(
    host: Host, rule: Rule, own: int | None, holders: Callable[[], Holders] | None = None
) -> Iterator[Listener]:
    """The listeners on the port of a rule that relays such a protocol, except the daemon `own`.

    The rule has the interfaces' own names. `holders` gives Host.holders(), where it is known.
    """
    protocol = protocol_of(rule)
    if protocol is None:
        return
    port = PROTOCOLS[protocol][0]
    sockets = [
        entry
        for table in ("udp", "udp6")
        for entry in bound(host.net(table))
        if entry.port == port and not entry.connected
    ]
    if not sockets:
        return
    pids_of = (holders or host.holders)()
    shown: dict[int | str, Listener] = {}
    for entry in sockets:
        pids = pids_of.get(entry.inode) or host.named(AVAHI, entry.uid)
        if own is not None and own in pids:
            continue
        if not pids and protocol == "mDNS" and _user(entry.uid) == AVAHI_USER:
            who = f"{AVAHI} (uid {entry.uid})"
            shown[who] = _avahi(who, _settings(host, AVAHI_CONF), AVAHI_CONF, rule)
        elif not pids:
            who = f"a program of uid {entry.uid}"
            shown[who] = Listener(who, protocol)
        else:
            shown[pids[0]] = _program(host, pids[0], rule, protocol)
    yield from shown.values()


def _program(host: Host, pid: int, rule: Rule, protocol: str) -> Listener:
    name = host.program(pid)
    who = f"{name} ({pid})"
    if name == AVAHI and protocol == "mDNS":
        path = _conf_of(host.words(pid))
        settings = _settings(host, f"/proc/{pid}/root{path}") or _settings(host, path)
        return _avahi(who, settings, path, rule)
    if name in REFLECTORS and all(end.intersection(host.words(pid)) for end in _ends(rule)):
        remedy = f"stop {name}, or take out the rule"
        return Listener(who, protocol, f"relays, as {shlex.join(host.words(pid))}", remedy)
    return Listener(who, protocol)


def _ends(rule: Rule) -> tuple[set[str], set[str]]:
    return {rule.input.interface}, {o.interface for o in rule.outputs if o.interface is not None}


def _avahi(who: str, settings: Mapping[str, str], path: str, rule: Rule) -> Listener:
    reflects = settings.get("enable-reflector", "no").lower() in ("yes", "true", "y", "on", "1")
    if not reflects or not _between(settings, *_ends(rule)):
        return Listener(who, "mDNS")
    remedy = f"enable-reflector=no in {path}, and restart it; or take the rule out"
    return Listener(who, "mDNS", f"reflects, by {path}", remedy)


def _user(uid: int) -> str:
    """The user's name; a socket has one even where processes are not visible."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _conf_of(words: Sequence[str]) -> str:
    """The file that avahi-daemon reads: -f FILE, --file FILE, --file=FILE (avahi-daemon(8)).

    Version 0.8 writes over its command line once it runs: then it is the usual one.
    """
    for at, word in enumerate(words):
        if word in ("-f", "--file") and at + 1 < len(words):
            return words[at + 1]
        if word.startswith("--file="):
            return word.removeprefix("--file=")
    return AVAHI_CONF


def _settings(host: Host, path: str) -> dict[str, str]:
    """The keys of all sections (avahi-daemon.conf(5)); none is in two."""
    found = {}
    with contextlib.suppress(OSError):
        for line in host.text(path.lstrip("/")).splitlines():
            key, equal, value = line.partition("=")
            if equal and not key.lstrip().startswith(("#", ";")):
                found[key.strip()] = value.strip()
    return found


def _between(settings: Mapping[str, str], given: set[str], outputs: set[str]) -> bool:
    """Whether it is on the input interface and on an output interface."""

    def names(key: str) -> set[str] | None:
        return {n.strip() for n in settings[key].split(",")} if settings.get(key) else None

    allowed, denied = names("allow-interfaces"), names("deny-interfaces") or set()
    return all(
        any((allowed is None or name in allowed) and name not in denied for name in end)
        for end in (given, outputs)
    )
