"""Command lines of other relays, as they stand in a script or unit file, or as `ps` shows them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import PurePath

from mcrd.convert.draft import Draft, DraftReflect, DraftRule, Value
from mcrd.convert.samplicator import PORT, Line, Listening, add, lines

Read = Callable[[str], str]
"""Reads a file that a command line names; raises OSError or UnicodeDecodeError."""

MANY = -1
"""An option that takes all words up to the next option."""

MDNS, SSDP = "224.0.0.251", "239.255.255.250"
MDNS_PORT, SSDP_PORT = 5353, 1900
TTL = 64  # of what udp-broadcast-relay-redux sends: it is its mark, 64 or more
_OWN, _OWN_PORT = "1.1.1.1", "1.1.1.2"  # what -s of udp-broadcast-relay-redux means with these
_ENDS = frozenset({"&", "&&", "|", "||", ";", ">", ">>", "2>", "<"})
_EXEC = re.compile(r"Exec[A-Za-z]*=[-@+!:]*")


@dataclass
class _Command:
    """A command line: its options with their values, and the other words; it adds to `draft`."""

    draft: Draft
    where: str
    options: dict[str, list[str]] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    def one(self, name: str, default: str = "") -> str:
        return (self.options.get(name) or [default])[-1]

    def many(self, name: str) -> list[str]:
        return self.options.get(name, [])

    def has(self, name: str) -> bool:
        return name in self.options

    def remark(self, text: str) -> None:
        self.draft.remarks.append(f"{self.where}: {text}")


@dataclass(frozen=True)
class _Program:
    """How a program reads its options, by name with the number of their values."""

    convert: Callable[[_Command, Read], None]
    options: Mapping[str, int]
    idle: frozenset[str]
    """Options that need no equivalent."""


def is_command(text: str) -> bool:
    """Whether the text has the command line of one of these programs."""
    return any(True for _ in _commands(text))


def from_commands(text: str, source: str, read: Read) -> Draft:
    """A draft of what the command lines say; what has no equivalent is a remark."""
    draft = Draft(source, understood=True)
    for where, program, words in _commands(text):
        found = _parsed(draft, where, PROGRAMS[program], words)
        idle = [name for name in found.options if name in PROGRAMS[program].idle]
        if idle:
            found.remark(f"{', '.join(map(_dashed, idle))}: needs no equivalent")
        PROGRAMS[program].convert(found, read)
    return draft


def _commands(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Each with its place, the program, and the words behind it."""
    number, began, joined = 0, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        began = began if joined else number
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        whole, joined = joined, ""
        try:
            words = shlex.split(_EXEC.sub("", whole.strip(), count=1), comments=True)
        except ValueError:
            continue
        for at, word in enumerate(words):
            program = PurePath(word).name.removesuffix(".py")
            if program in PROGRAMS:
                ends = (i for i, each in enumerate(words) if i > at and each in _ENDS)
                yield f"line {began}: {program}", program, words[at + 1 : next(ends, len(words))]
                break


def _parsed(draft: Draft, where: str, program: _Program, words: list[str]) -> _Command:
    found, left = _Command(draft, where), list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-") or word == "-":
            found.rest.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name not in program.options and not word.startswith("--") and len(name) > 1:
            # As getopt(3) reads it: -fp2055 is -f -p 2055.
            name, value = name[0], name[1:] + equals + value
            if program.options.get(name) == 0:
                left.insert(0, f"-{value}")
                value = ""
            equals = value
        takes = program.options.get(name)
        if takes is None:
            found.remark(f"{word}: not understood")
            continue
        given = [value] if equals else []
        while left and not left[0].startswith("-") and (takes == MANY or len(given) < takes):
            given.append(left.pop(0))
        found.options.setdefault(name, []).extend(given)
    return found


def _dashed(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _remark(command: _Command, *names: str, why: str) -> None:
    """A remark for options that are given, and have no equivalent."""
    for name in names:
        if command.has(name):
            text = " ".join([_dashed(name), *command.many(name)])
            command.remark(f"{text}: {why}")


def _names(command: _Command, given: list[str]) -> list[str]:
    """The interfaces; other ways to say one have no equivalent."""
    names = list(dict.fromkeys(given))
    wrong = [name for name in names if re.fullmatch(r"[0-9.]+(/[0-9]+)?", name)]
    for name in wrong:
        command.remark(f"{name}: left out: an interface goes by its name")
    return [name for name in names if name not in wrong]


def _chosen(command: _Command, **options: str) -> dict[str, Value]:
    """The networks that options list, by the keys that they are here; some have bits of a host."""
    made: dict[str, Value] = {}
    for key, name in options.items():
        networks: list[str] = []
        for text in command.many(name):
            try:
                networks.append(str(ip_network(text, strict=False)))
            except ValueError:
                command.remark(f"{text}: left out: not a network")
        if networks:
            made[key] = networks
    return made


@dataclass
class _Mesh:
    """What goes from each of some interfaces to each other one."""

    name: str
    interfaces: list[str]
    destination: dict[str, Value]
    """`protocol`, or `address` and `port`."""
    input: dict[str, Value] = field(default_factory=dict)
    output: dict[str, Value] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    """Interfaces to which nothing is sent."""
    own: list[str] = field(default_factory=list)
    """Those on which the source is not kept."""


def _add(command: _Command, mesh: _Mesh) -> None:
    """Add a table [reflect.NAME] where that can say it, else a rule for each interface."""
    if len(mesh.interfaces) < 2:
        command.remark("no rule: it takes two interfaces")
        return
    draft = command.draft
    name = draft.free_name(mesh.name)
    plain = not mesh.input and not mesh.silent and not mesh.own
    said = not mesh.output.keys() - {"ttl", "source", "replies"}
    if plain and said and mesh.output.get("source") in (None, "keep"):
        settings: dict[str, Value] = {"interfaces": mesh.interfaces, **mesh.destination}
        draft.reflects.append(DraftReflect(name, settings | mesh.output, where=command.where))
        return
    taken = _PLACES.get(str(mesh.destination.get("protocol")), mesh.destination)
    for came in mesh.interfaces:
        outputs = [
            {"interface": to, **_kept(mesh.output, to in mesh.own)}
            for to in mesh.interfaces
            if to != came and to not in mesh.silent
        ]
        if outputs:
            given: dict[str, Value] = {"interface": came, **taken, **mesh.input}
            name = draft.free_name(f"{mesh.name}-{came}")
            draft.rules.append(DraftRule(name, given, outputs, where=command.where))


_PLACES: Mapping[str, dict[str, Value]] = {
    "mdns": {"address": MDNS, "port": MDNS_PORT},
    "ssdp": {"address": SSDP, "port": SSDP_PORT},
}


def _kept(output: dict[str, Value], own: bool) -> dict[str, Value]:
    return {key: value for key, value in output.items() if not (own and value == "keep")}


def _samplicate(command: _Command, read: Read) -> None:
    _remark(command, "x", why="mcrd sends at once; `limit` bounds packets per second")
    _remark(command, "n", why="packets have their checksum")
    given = []
    for path in command.many("c"):
        try:
            given += lines(command.draft, read(path), f"{path}: ")
        except (OSError, UnicodeDecodeError) as error:
            command.remark(f"{path}: left out: cannot be read: {error}")
    port = command.one("p", str(PORT))
    if not port.isdigit():
        command.remark(f"-p {port}: not understood: expected a number")
        return
    given.append(Line(command.where, None, command.rest))
    listening = Listening(command.one("s") or None, int(port), command.has("S"))
    add(command.draft, given, listening)


def _broadcast_relay(command: _Command, _: Read) -> None:
    """udp-broadcast-relay-redux, and udpbroadcastrelay, which has more options."""
    _remark(command, "id", "blockid", why="what comes back is known by its contents")
    _remark(command, "msearch", why="mcrd does not look into packets")
    port = command.one("port")
    if not port.isdigit():
        command.remark("no rule: it takes --port NUMBER")
        return
    chosen = _chosen(command, exclude="blockcidr", sources="allowcidr")
    mesh = _Mesh("", _names(command, command.many("dev")), {}, chosen)
    source = command.one("s")
    if not source:
        mesh.output["source"] = "keep"
    elif source in (_OWN, _OWN_PORT):
        if source == _OWN_PORT or int(port) == MDNS_PORT:
            mesh.output["source_port"] = int(port)
        else:
            text = "the source port of each packet is not kept with an address of the interface"
            command.remark(f"-s {source}: {text}: a port is chosen once")
    else:
        mesh.output["source"] = source
    groups = command.many("multicast")
    if groups:
        text = "broadcasts to this port were relayed as well; mcrd relays these groups alone"
        command.remark(text)
    to = command.one("t")
    if to:
        mesh.output["address"] = "broadcast" if to == "255.255.255.255" else to
    for address in groups or ["broadcast"]:
        mesh.name = f"udp-{port}" if address == "broadcast" else f"udp-{port}-{address}"
        mesh.destination = {"address": address, "port": int(port)}
        output = dict(mesh.output)
        if address != "broadcast" and not to:
            output["ttl"] = 255 if int(port) == MDNS_PORT else TTL
        _add(command, replace(mesh, output=output))


def _old_broadcast_relay(command: _Command, _: Read) -> None:
    """udp-broadcast-relay, whose arguments are ID PORT INTERFACE..."""
    if len(command.rest) < 2 or not command.rest[1].isdigit():
        command.remark("not understood: expected ID PORT INTERFACE...")
        return
    names = _names(command, command.rest[2:])
    where: dict[str, Value] = {"address": "broadcast", "port": int(command.rest[1])}
    mesh = _Mesh(f"udp-{command.rest[1]}", names, where, output={"source": "keep"})
    _add(command, mesh)


def _multicast_relay(command: _Command, _: Read) -> None:
    _remark(
        command,
        *("ifFilter", "listen", "remote", "remotePort", "remoteRetry", "noRemoteRelay", "aes"),
        *("oneInterface", "mdnsForceUnicast", "ssdpRepeat", "mdnsRepeat"),
        why="no equivalent",
    )
    if command.has("ifFilter"):
        command.draft.remarks.append(
            "`sources` of an output says whose packets it sends, as --ifFilter does"
        )
    names = _names(command, command.many("interfaces"))
    silent, own = command.many("noTransmitInterfaces"), command.many("masquerade")
    family: dict[str, Value] = {} if silent or own else {"family": "ipv4"}
    ttl = command.one("ttl")
    common: dict[str, Value] = {"ttl": int(ttl)} if ttl.isdigit() and ttl != "0" else {}

    def mesh(name: str, destination: dict[str, Value], output: dict[str, Value]) -> None:
        _add(command, _Mesh(name, names, destination, {}, output, silent, own))

    if not command.has("noMDNS"):
        whole: dict[str, Value] = {"source_port": MDNS_PORT, "ttl": 255}
        mesh("mdns", {"protocol": "mdns", **family}, whole if silent or own else {})
    if not command.has("noSSDP"):
        output: dict[str, Value] = {"source": "keep"}
        if command.has("ssdpUnicastAddr"):
            output = {"replies": "30s"}
        mesh("ssdp", {"protocol": "ssdp", **family}, {"ttl": 2} | common | output)
    kept: dict[str, Value] = {**common, "source": "keep"}
    if not command.has("noSonosDiscovery"):
        for number in (1900, 6969):
            mesh(f"sonos-{number}", {"address": "broadcast", "port": number}, kept)
    for relay in command.many("relay"):
        address, _colon, number_text = relay.rpartition(":")
        if not number_text.isdigit():
            command.remark(f"--relay {relay}: not understood")
            continue
        address = "broadcast" if address == "255.255.255.255" else address
        mesh(f"relay-{relay}", {"address": address, "port": int(number_text)}, kept)


def _mdns_repeater(command: _Command, _: Read) -> None:
    names = _names(command, command.rest)
    chosen = _chosen(command, exclude="b", sources="w")
    mesh = _Mesh("mdns", names, {"protocol": "mdns", "family": "ipv4"}, chosen)
    if mesh.input:
        mesh.output |= {"source_port": MDNS_PORT, "ttl": 255}
    _add(command, mesh)


def _program(convert: Callable[[_Command, Read], None], options: str, idle: str) -> _Program:
    """Options as "NAME", "NAME:" with a value, "NAME*" with several."""
    takes = {
        each.rstrip(":*"): {":": 1, "*": MANY}.get(each[-1], 0) for each in (options + idle).split()
    }
    return _Program(convert, takes, frozenset(each.rstrip(":*") for each in idle.split()))


_REDUX = "id: port: dev: multicast: s: blockid: blockcidr: allowcidr: msearch: "
PROGRAMS: Mapping[str, _Program] = {
    "samplicate": _program(_samplicate, "s: p: c: x: S n ", "d: b: f m: 4 6 h u:"),
    "samplicator": _program(_samplicate, "s: p: c: x: S n ", "d: b: f m: 4 6 h u:"),
    "udp-broadcast-relay": _program(_old_broadcast_relay, "", "f d"),
    "udp-broadcast-relay-redux": _program(_broadcast_relay, f"{_REDUX}t: ", "f d h help"),
    "udpbroadcastrelay": _program(_broadcast_relay, _REDUX, "t ttl-id f d h help"),
    "multicast-relay": _program(
        _multicast_relay,
        "interfaces* noTransmitInterfaces* ifFilter: ssdpUnicastAddr: ssdpRepeat: mdnsRepeat: "
        "oneInterface relay* noMDNS mdnsForceUnicast noSSDP noSonosDiscovery masquerade* ttl: "
        "listen* remote* remotePort: remoteRetry: noRemoteRelay aes: ",
        "homebrewNetifaces ifNameStructLen: allowNonEther wait k8sport: foreground logfile: "
        "verbose h help",
    ),
    "mdns-repeater": _program(_mdns_repeater, "b: w: ", "f p: u: h"),
}
"""By the name of the file that is run."""
