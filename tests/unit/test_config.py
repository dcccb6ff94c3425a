"""A rule file becomes a Config, or every one of its problems is named at its place."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
import textwrap
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import msgspec.inspect as mi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcrd.config import ConfigError, Problem, load, parse
from mcrd.config.overlap import Claim, Overlaps, Spans, box, clashes, common, everything, spans
from mcrd.config.schema import File
from mcrd.model import (
    Config,
    Daemon,
    Input,
    Inspect,
    Interface,
    Network,
    Output,
    Place,
    PortRange,
    Rule,
)
from tests.documents import example

if TYPE_CHECKING:
    from collections.abc import Iterator

# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "etc" / "mcr.toml.example").read_text()

WALL = textwrap.dedent(
    """\
    [daemon]
    log_level = "debug"
    watch = false

    [rules.wall]
    description = "Camera wall"
    input = { interface = "eth0", address = "239.1.1.1", port = 5000 }
    outputs = [
        { interface = "eth1", address = "239.2.2.2", port = 6000, ttl = 8, dscp = 34, loop = true },
        { interface = "wg0", address = "10.100.0.2", source = "10.0.0.1", source_port = 20000 },
    ]
    """
)


def problems(text: str | bytes) -> list[str]:
    """The lines of the ConfigError that a text draws."""
    if isinstance(text, str):
        text = textwrap.dedent(text)
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return str(caught.value).split("\n")


def rule(name: str, given: str, *outputs: str, more: str = "") -> str:
    """Five lines of a rule: header, more, input, and the outputs from line 5 on, column 5."""
    lines = "".join(f"    {{ {output} }},\n" for output in outputs)
    return f"[rules.{name}]\n{more}\ninput = {{ {given} }}\noutputs = [\n{lines}]\n"


def to(interface: str, address: str, more: str = "") -> str:
    """One input or output."""
    return f'interface = "{interface}", address = "{address}"{more}'


CAMERA = to("eth0", "239.1.1.1", ", port = 5000")
HOST = to("eth1", "10.0.0.1")


def output_problems(output: str) -> list[str]:
    """The problems of a rule with one output, which starts at line 5, column 5."""
    return problems(rule("a", CAMERA, output))


def output_of(output: str) -> Output:
    """The one output of a rule."""
    return parse(rule("a", CAMERA, output), "f").rules["a"].outputs[0]


# What is read


def test_a_whole_file() -> None:
    assert parse(WALL, "f") == Config(
        daemon=Daemon(log_level="debug", watch=False),
        rules={
            "wall": Rule(
                name="wall",
                input=Input("eth0", ip_address("239.1.1.1"), 5000),
                outputs=(
                    Output("eth1", ip_address("239.2.2.2"), 6000, ttl=8, dscp=34, loop=True),
                    Output(
                        "wg0",
                        ip_address("10.100.0.2"),
                        5000,
                        ttl=64,
                        source=ip_address("10.0.0.1"),
                        source_port=20000,
                    ),
                ),
                description="Camera wall",
            )
        },
    )


@pytest.mark.parametrize("text", ["", b"", "\n# nothing\n", "[rules]\n", "[daemon]\n", "\ufeff"])
def test_a_file_without_rules(text: str | bytes) -> None:
    assert parse(text, "f") == Config()


def test_rules_keep_the_order_of_the_file() -> None:
    text = "".join(
        rule(name, to("eth0", f"239.1.1.{index}", ", port = 1"), HOST)
        for index, name in enumerate(["c", "a", "b"])
    )
    assert list(parse(text, "f").rules) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (rule("a", CAMERA, HOST), (1, 1)),
        (f"[rules]\na = {{ input = {{ {CAMERA} }}, outputs = [{{ {HOST} }}] }}\n", (2, 5)),
        (
            '[rules.a.input]\ninterface = "e"\naddress = "10.0.0.2"\nport = 1\n'
            '[[rules.a.outputs]]\ninterface = "e"\naddress = "10.0.0.3"\n',
            (1, 8),
        ),
    ],
)
def test_place_of_a_rule(text: str, place: tuple[int, int]) -> None:
    assert parse(text, "f").rules["a"].place == Place("f", *place)


def test_crlf_is_a_line_end() -> None:
    assert parse(WALL.replace("\n", "\r\n"), "f") == parse(WALL, "f")
    text = WALL.replace("ttl = 8", "ttl = 256").replace("\n", "\r\n")
    assert [line.split()[0] for line in problems(text)] == ["f:9:69:"]


@pytest.mark.parametrize(
    ("address", "ttl"), [("239.2.2.2", 1), ("ff05::1", 1), ("10.0.0.1", 64), ("fd00::1", 64)]
)
def test_default_ttl(address: str, ttl: int) -> None:
    assert output_of(to("eth1", address)).ttl == ttl


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "fe80::1", "ff02::1", "224.0.0.1", "240.0.0.1", "239.1.1.1"]
)
def test_addresses(address: str) -> None:
    assert output_of(to("eth1", address)).address == ip_address(address)


@pytest.mark.parametrize(
    "name", ["e", "eth0.100", "a" * 15, "a" * 127, "ä" * 63, "...", "br-lan", "eth%d"]
)
def test_interface_names(name: str) -> None:
    assert output_of(to(name, "10.0.0.1")).interface == name


@pytest.mark.parametrize("name", ["a", "A-z_9", '"hall.cam:2"', "1", "a" * 64])
def test_rule_names(name: str) -> None:
    assert list(parse(rule(name, CAMERA, HOST), "f").rules) == [name.strip('"')]


# Files that cannot be read


def test_load(tmp_path: Path) -> None:
    file = tmp_path / "mcr.toml"
    file.write_text(WALL)
    assert load(file) == load(str(file)) == parse(WALL, "f")
    place = load(file).rules["wall"].place
    assert place == Place(str(file), 5, 1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = str(tmp_path / "none.toml")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: cannot read: No such file or directory"
    message = "cannot read: No such file or directory"
    assert caught.value.problems == (Problem(Place(file, 0, 0), "", message),)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot read: Is a directory"


def test_a_path_with_nul() -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load("a\0b")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = '\u00e4".encode() + b"\xff'", "f:2:7: not UTF-8: byte 0xff"),
        (b"\x80", "f:1:1: not UTF-8: byte 0x80"),
        ("a = '\ud800'", "f:1:6: not UTF-8: byte 0xed"),
        ("a = 1\nb = $", "f:2:5: invalid value"),
        ("a = [1,\n 2", 'f:2:3: the array that begins at f:1:5 is not closed: "]" is missing'),
        ("[a]\n[a.b]\n[a]", "f:3:2: a: given twice; first at f:1:2"),
        ("[rules.a]\nx = 1\n\nx = [\n1]", "f:4:1: rules.a.x: given twice; first at f:2:1"),
        ("[a.'b c']\n[a]\n'b c'.d = 1", 'f:3:12: cannot redefine namespace a."b c"'),
        ("a = " + "[" * 100_000, "f:1:105: nested more than 100 levels deep"),
        ("a = " + "[" * 300 + "]" * 300, "f:1:105: nested more than 100 levels deep"),
        (".".join("a" * 10_000) + " = 1", "f:1:201: nested more than 100 levels deep"),
        ("[daemon]\nwatch = " + "1" * 5000, "f:2:9: daemon.watch: integer too long"),
        (
            "[daemon]\nwatch = 0x" + "1" * 5000,
            "f:2:9: daemon.watch: expected true or false, got an integer of more than 20 digits",
        ),
    ],
)
def test_texts_that_are_no_toml(text: str | bytes, line: str) -> None:
    assert problems(text) == [line]


# Keys and types


def test_all_problems_come_at_once_and_in_order() -> None:
    text = """\
        [daemon]
        watch = 1
        log_level = "loud"
        [rules.a]
        input = { interface = "eth/0", address = "239.1.1", port = 0 }
        outputs = [
            { interfce = "eth1", adress = "239.2.2.2", ttl = 300, dscp = true },
            7,
        ]
        enabled = "yes"
        [rules.b]
        input = []
        outputs = []
        description = 1979-05-27
        [rules.c]
        [rules.d]
        input = { interface = "eth0", address = "239.1.1.1", port = 5000.0 }
        outputs = [{ interface = "eth1", address = "10.0.0.1", loop = true }]
        [interface.eth0]
        """
    assert problems(text) == [
        "f:2:9: daemon.watch: expected true or false, got 1",
        'f:3:13: daemon.log_level: expected "debug", "error", "info" or "warning", got "loud"',
        "f:5:23: rules.a.input.interface: expected an interface name (1 to 127 bytes; "
        'no "/", ":" or white space; not "." or ".."), got "eth/0"',
        'f:5:42: rules.a.input.address: expected an IPv4 or IPv6 address, got "239.1.1"',
        "f:5:60: rules.a.input.port: expected an integer from 1 to 65535, got 0",
        "f:7:5: rules.a.outputs[0].interface: missing; expected an interface name",
        'f:7:7: rules.a.outputs[0].interfce: unknown key; did you mean "interface"?',
        'f:7:26: rules.a.outputs[0].adress: unknown key; did you mean "address"?',
        "f:7:54: rules.a.outputs[0].ttl: expected an integer from 1 to 255, got 300",
        "f:7:66: rules.a.outputs[0].dscp: expected an integer from 0 to 63, got true",
        "f:8:5: rules.a.outputs[1]: expected a table, got 7",
        'f:10:11: rules.a.enabled: expected true or false, got "yes"',
        "f:12:9: rules.b.input: expected a table, got an array",
        "f:13:11: rules.b.outputs: expected at least 1, got none",
        "f:14:15: rules.b.description: expected a string, got the date or time 1979-05-27",
        "f:15:1: rules.c.outputs: missing; expected an array of tables",
        "f:15:1: rules.c.input: missing; expected a table",
        "f:17:61: rules.d.input.port: expected an integer from 1 to 65535 or a range such as "
        '"5000-5099", got the floating-point number 5000.0',
        "f:18:63: rules.d.outputs[0].loop: applies to groups only; 10.0.0.1 is a host",
        'f:19:2: interface: unknown key; did you mean "interfaces"?',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rules = 1", "f:1:9: rules: expected a table, got 1"),
        ("[[rules]]", "f:1:1: rules: expected a table, got an array"),
        ("[rules]\na = 'x'", 'f:2:5: rules.a: expected a table, got "x"'),
        ("[daemon.watch]", "f:1:1: daemon.watch: expected true or false, got a table"),
        ("daemon.wach = 1", 'f:1:8: daemon.wach: unknown key; did you mean "watch"?'),
        ("[rule.a]", 'f:1:2: rule: unknown key; did you mean "rules"?'),
        (
            'daemon.log_level = "\\u001b[1m\\"' + "x" * 80 + '"',
            'f:1:20: daemon.log_level: expected "debug", "error", "info" or "warning", '
            'got "\\u001B[1m\\"' + "x" * 52 + '..."',
        ),
    ],
)
def test_one_wrong_key(text: str, line: str) -> None:
    assert problems(text) == [line]


@pytest.mark.parametrize("name", ['""', '"a b"', '"a\\tb"', '"ä"', "a" * 65, '"a/b"', '"a\\n"'])
def test_wrong_rule_names(name: str) -> None:
    [line] = problems(rule(name, CAMERA, HOST))
    assert line.startswith("f:1:8: rules.")
    assert line.endswith(
        ': a rule name is 1 to 64 of the letters A to Z and a to z, digits, ".", "_", "-" and ":"'
    )


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a" * 128, "ä" * 64, "a/b", "a:1", "a b", "a\\n", "a\\u000b", "à", "\\u0000"],
)
def test_wrong_interface_names(name: str) -> None:
    [line] = output_problems(to(name, "10.0.0.1"))
    assert line.startswith("f:5:19: rules.a.outputs[0].interface: expected an interface name (")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", 'expected an IPv4 or IPv6 address, got ""'),
        ("10.0.0.01", 'expected an IPv4 or IPv6 address, got "10.0.0.01"'),
        ("10.0.0.1%eth0", 'expected an address without "%", got "10.0.0.1%eth0"; '
         "the key interface says which interface"),
        ("fe80::1%eth0", 'expected an address without "%", got "fe80::1%eth0"; '
         "the key interface says which interface"),
        ("0.0.0.0", 'expected the address of a group or a host, got "0.0.0.0"'),
        ("::", 'expected the address of a group or a host, got "::"'),
        ("Broadcast", 'expected an IPv4 or IPv6 address, got "Broadcast"'),
        ("::ffff:10.0.0.1", 'expected an IPv4 or IPv6 address, got "::ffff:10.0.0.1"; '
         'write "10.0.0.1"'),
        ("239.1.2.0/16", 'expected a prefix without host bits, got "239.1.2.0/16"; '
         "the network is 239.1.0.0/16"),
        ("ff05::1/112", 'expected a prefix without host bits, got "ff05::1/112"; '
         "the network is ff05::/112"),
        ("224.0.0.0/3", 'expected a prefix of groups or one of hosts, got "224.0.0.0/3", '
         "which has both"),
        ("0.0.0.0/0", 'expected a prefix of groups or one of hosts, got "0.0.0.0/0", '
         "which has both"),
        ("::/0", 'expected a prefix of groups or one of hosts, got "::/0", which has both'),
        ("0.0.0.0/8", 'expected a prefix of groups or of hosts, got "0.0.0.0/8", '
         "which has 0.0.0.0 in it"),
        ("240.0.0.0/4", 'expected a prefix of groups or of hosts, got "240.0.0.0/4", '
         "which has 255.255.255.255 in it"),
        ("fe80::%eth0/64", 'expected a prefix without "%", got "fe80::%eth0/64"; '
         "the key interface says which interface"),
        ("::ffff:10.0.0.0/104", 'expected a prefix, got "::ffff:10.0.0.0/104"; '
         'write "10.0.0.0/8"'),
        *((text, 'expected an address or a prefix such as "239.1.0.0/16" or "ff05::/112", '
           f'got "{text}"')
          for text in ("239.1.0.0/33", "239.1.0.0/", "/16", "239.1.0.0/255.255.0.0",
                       "239.1.0.0/016", "239.1/16", "239.1.0.0/16/16", "ff05::/129")),
    ],
)  # fmt: skip
def test_wrong_addresses(address: str, message: str) -> None:
    expected = [f"f:5:37: rules.a.outputs[0].address: {message}"]
    assert output_problems(to("eth1", address)) == expected


# Checks between keys


@pytest.mark.parametrize(
    ("address", "source", "message"),
    [
        ("10.0.0.1", "239.1.1.1", "expected the address of a host, got the group 239.1.1.1"),
        (
            "10.0.0.1",
            "fd00::1",
            "expected an IPv4 address, as the address of this output is, got fd00::1",
        ),
        (
            "ff05::1",
            "10.0.0.1",
            "expected an IPv6 address, as the address of this output is, got 10.0.0.1",
        ),
        ("10.0.0.1", "0.0.0.0", 'expected the address of a group or a host, got "0.0.0.0"'),
    ],
)
def test_wrong_sources(address: str, source: str, message: str) -> None:
    [line] = output_problems(f'source = "{source}", ' + to("eth1", address))
    assert line == f"f:5:16: rules.a.outputs[0].source: {message}"


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1", "239.9.9.9", "ff05::1"])
def test_families_and_kinds_mix(address: str) -> None:
    for came_to in ("10.0.0.2", "fd00::2", "239.1.1.1", "ff05::2"):
        parse(rule("a", to("eth0", came_to, ", port = 1"), to("eth1", address)), "f")


def test_loop_needs_a_group() -> None:
    assert output_problems(HOST + ", loop = true") == [
        "f:5:56: rules.a.outputs[0].loop: applies to groups only; 10.0.0.1 is a host"
    ]
    assert output_of(HOST + ", loop = false").loop is False


@pytest.mark.parametrize("port", ["", ", port = 5000"])
def test_an_output_that_is_the_input(port: str) -> None:
    assert output_problems(to("eth0", "239.1.1.1", port)) == [
        "f:5:5: rules.a.outputs[0]: "
        "same interface, address and port as the input of this rule (f:3:9)"
    ]


def test_one_interface_for_input_and_output() -> None:
    assert output_of(to("eth0", "239.1.1.1", ", port = 5001")).interface == "eth0"


def test_a_host_needs_no_interface() -> None:
    output = output_of('address = "10.0.0.1", dscp = 4')
    assert (output.interface, str(output.address), output.port) == (None, "10.0.0.1", 5000)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ttl = 3", "239.1.1.1 is a group, and routes to hosts do not tell where it goes"),
        (
            'address = "fe80::1"',
            "fe80::1 is link-local, and there is such an address on every link",
        ),
    ],
)
def test_what_the_routes_do_not_lead_to_needs_an_interface(output: str, message: str) -> None:
    assert output_problems(output) == [
        "f:5:5: rules.a.outputs[0].interface: missing; expected an interface name: " + message
    ]


def test_a_prefix_needs_an_interface() -> None:
    given = to("eth0", "239.1.0.0/24", ", port = 5000")
    assert problems(rule("a", given, 'address = "10.0.0.0/24"')) == [
        "f:5:5: rules.a.outputs[0].interface: missing; expected an interface name:"
        " the routes may lead to the hosts of 10.0.0.0/24 over several"
    ]


def test_what_the_routes_would_lead_back() -> None:
    given = to("eth0", "10.0.0.1", ", port = 5000")
    assert problems(rule("a", given, "ttl = 3")) == [
        "f:5:5: rules.a.outputs[0]: would come back to the input of this rule: 10.0.0.1 port 5000"
    ]
    twice = rule("a", CAMERA, 'address = "10.0.0.1"', HOST, 'address = "10.0.0.1", dscp = 4')
    assert problems(twice) == [
        "f:7:5: rules.a.outputs[2]: same address and port as rules.a.outputs[0] (f:5:5)"
    ]


def test_an_output_listed_twice() -> None:
    text = rule("a", CAMERA, to("e", "ff05::1"), HOST, to("e", "FF05:0::1", ", port = 5000"))
    assert problems(text) == [
        "f:7:5: rules.a.outputs[2]: same interface, address and port as rules.a.outputs[0] (f:5:5)"
    ]


@pytest.mark.parametrize("more", ["", "enabled = false"])
def test_rules_with_the_same_input(more: str) -> None:
    text = rule("a", CAMERA, HOST) + rule("b", CAMERA, HOST, more=more) + rule("c", CAMERA, HOST)
    assert problems(text) == [
        "f:9:9: rules.b.input: same input as rules.a (f:3:9)",
        "f:15:9: rules.c.input: same input as rules.a (f:3:9)",
    ]


def test_the_later_rule_is_the_one_that_stands_later() -> None:
    # TOML lets a table be spread over the file, so the order of names does not say it.
    text = f"[rules.b]\noutputs = [{{ {HOST} }}]\n" + rule("a", CAMERA, HOST)
    text += f"[rules.b.input]\n{CAMERA.replace(', ', chr(10))}\n"
    assert problems(text) == ["f:9:1: rules.b.input: same input as rules.a (f:5:9)"]


def test_a_wrong_rule_does_not_hide_that_rules_clash() -> None:
    text = rule("a", CAMERA, HOST + ", ttl = 0") + rule("b", CAMERA, HOST, more="enabled = 1")
    assert problems(text) == [
        "f:5:55: rules.a.outputs[0].ttl: expected an integer from 1 to 255, got 0",
        "f:8:11: rules.b.enabled: expected true or false, got 1",
        "f:9:9: rules.b.input: same input as rules.a (f:3:9)",
    ]


def test_a_wrong_port_is_not_taken_for_an_absent_one() -> None:
    assert output_problems(to("eth0", "239.1.1.1", ", port = 0")) == [
        "f:5:57: rules.a.outputs[0].port: expected an integer from 1 to 65535, got 0"
    ]


def two_rules(first: str, second: str) -> str:
    other = to("eth0", "239.1.1.2", ", port = 5000")
    return rule("a", CAMERA, first) + rule("b", other, second)


@pytest.mark.parametrize("source", ["", ', source = "10.0.0.9"'])
def test_a_source_port_used_twice(source: str) -> None:
    output = HOST + ", source_port = 7" + source
    assert problems(two_rules(output, output)) == [
        "f:11:63: rules.b.outputs[0].source_port: "
        "same source port, source and destination as rules.a.outputs[0] (f:5:5)"
    ]


@pytest.mark.parametrize(
    "second",
    [
        HOST,
        HOST + ", source_port = 8",
        HOST + ", source_port = 7, port = 1",
        HOST + ', source_port = 7, source = "10.0.0.9"',
        to("eth2", "10.0.0.1", ", source_port = 7"),
        to("eth1", "10.0.0.2", ", source_port = 7"),
    ],
)
def test_a_source_port_shared_by_flows_that_differ(second: str) -> None:
    parse(two_rules(HOST + ", source_port = 7", second), "f")


# Warnings


def warnings(text: str) -> tuple[str, ...]:
    return parse(text, "f").warnings


def test_no_warnings() -> None:
    assert warnings(WALL) == ()


@pytest.mark.parametrize("group", ["239.2.2.2", "ff05::1", "224.0.1.1"])
def test_default_ttl_to_a_group(group: str) -> None:
    text = rule("a", CAMERA, to("eth1", group))
    assert warnings(text) == (
        "f:5:5: rules.a.outputs[0].ttl: 1 by default, so the first router will drop it; "
        "set a higher ttl to cross routers, or ttl = 1 if none is to be crossed",
    )
    assert warnings(rule("a", CAMERA, to("eth1", group, ", ttl = 1"))) == ()
    assert warnings(rule("a", CAMERA, to("eth1", group), more="enabled = false")) == ()


@pytest.mark.parametrize(
    ("address", "port", "name"),
    [
        ("224.0.0.251", 5353, "mDNS may ignore all but 255 (RFC 6762, section 11)"),
        ("ff02::fb", 5353, "mDNS may ignore all but 255 (RFC 6762, section 11)"),
        ("224.0.0.252", 5355, "LLMNR may ignore all but 255 (RFC 4795, section 2.5)"),
        ("ff02::1:3", 5355, "LLMNR may ignore all but 255 (RFC 4795, section 2.5)"),
    ],
)
def test_a_ttl_that_receivers_may_ignore(address: str, port: int, name: str) -> None:
    def warned(ttl: str) -> tuple[str, ...]:
        return warnings(rule("a", CAMERA, to("eth1", address, f", port = {port}{ttl}")))

    says = f"but receivers of {name}"
    (absent,) = warned("")
    assert absent == f"f:5:5: rules.a.outputs[0].ttl: 1 by default, {says}"
    (given,) = warned(", ttl = 8")
    assert re.fullmatch(r"f:5:\d\d: rules\.a\.outputs\[0\]\.ttl: 8, " + re.escape(says), given)
    assert warned(", ttl = 255") == ()


@pytest.mark.parametrize("address", ["224.0.0.251", "ff02::fb", "ff12::1", "ff01::1", "10.0.0.1"])
def test_default_ttl_that_is_right(address: str) -> None:
    assert warnings(rule("a", CAMERA, to("eth1", address))) == ()


def test_a_rule_that_another_one_feeds() -> None:
    fed = rule("b", to("eth1", "10.0.0.1", ", port = 5000"), to("eth2", "10.0.0.3"))
    feeding = rule("a", CAMERA, HOST)
    assert warnings(feeding + fed) == (
        "f:9:9: rules.b.input: never receives what rules.a.outputs[0] (f:5:5) sends: "
        "what this host sends is not relayed again",
    )
    assert warnings(feeding + fed.replace("]\n\n", "]\nenabled = false\n")) == ()
    assert warnings(feeding.replace("]\n\n", "]\nenabled = false\n") + fed) == ()


def test_two_rules_that_relay_both_ways() -> None:
    here = to("eth0", "239.255.255.250", ", port = 3702")
    there = to("eth1", "239.255.255.250", ", port = 3702")
    text = rule("a", here, there + ", ttl = 1") + rule("b", there, here + ", ttl = 1")
    assert warnings(text) == ()


def test_warnings_do_not_come_with_errors() -> None:
    assert problems(rule("a", CAMERA, to("eth1", "239.2.2.2", ", dscp = 64"))) == [
        "f:5:57: rules.a.outputs[0].dscp: expected an integer from 0 to 63, got 64"
    ]


# Ranges


def input_of(given: str) -> Input:
    """The input of a rule whose one output keeps address and port."""
    return (
        parse(rule("a", f'interface = "eth0", {given}', 'interface = "eth1"'), "f").rules["a"].input
    )


def input_problems(given: str) -> list[str]:
    """The problems of a rule whose input starts at line 3, column 9; `given` at column 31."""
    return problems(rule("a", f'interface = "eth0", {given}', 'interface = "eth1"'))


GROUPS = 'address = "239.1.0.0/16"'
GROUP = 'address = "239.1.1.1"'


def test_an_input_range() -> None:
    found = input_of(GROUPS + ', port = "5000-5099"')
    assert found == Input("eth0", ip_network("239.1.0.0/16"), PortRange(5000, 5099))
    assert found.is_range
    assert input_of(GROUPS + ", port = 1").is_range
    assert input_of(GROUP + ', port = "1-65535"').is_range


def test_a_range_of_one_is_none() -> None:
    for address, port in [("239.1.1.1/32", '"5000-5000"'), ("239.1.1.1", "5000")]:
        found = input_of(f'address = "{address}", port = {port}')
        assert found == Input("eth0", ip_address("239.1.1.1"), 5000)
        assert not found.is_range
    assert input_of('address = "ff05::1/128", port = 1').address == ip_address("ff05::1")


def test_port_range() -> None:
    ports = PortRange(5000, 5099)
    assert (len(ports), str(ports)) == (100, "5000-5099")
    assert 5000 in ports
    assert 5099 in ports
    assert 4999 not in ports
    assert 5100 not in ports


@pytest.mark.parametrize("port", ["", "5000", "5000-", "-1", "0-1", "05-06", "1 - 2", "1-65536"])
def test_wrong_ports(port: str) -> None:
    assert input_problems(f'port = "{port}", {GROUP}') == [
        "f:3:38: rules.a.input.port: expected an integer from 1 to 65535 or a range such as "
        f'"5000-5099", got "{port}"'
    ]


def test_a_port_range_backwards() -> None:
    assert input_problems(f'port = "5099-5000", {GROUP}') == [
        "f:3:38: rules.a.input.port: expected an integer from 1 to 65535 or a range such as "
        '"5000-5099", got "5099-5000"; write "5000-5099"'
    ]


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_ports_out_of_bounds(port: str) -> None:
    assert input_problems(f"port = {port}, {GROUP}") == [
        f"f:3:38: rules.a.input.port: expected an integer from 1 to 65535, got {port}"
    ]


def test_a_missing_port() -> None:
    assert input_problems(GROUP) == [
        "f:3:9: rules.a.input.port: missing; expected an integer from 1 to 65535 or a range "
        'such as "5000-5099"'
    ]


def mapped(given: str, output: str) -> str:
    return rule("a", f'interface = "eth0", {given}', f'interface = "eth1", ttl = 2, {output}')


@pytest.mark.parametrize(
    ("given", "output", "address", "port"),
    [
        (f"{GROUPS}, port = 5", 'address = "239.2.0.0/16"', "239.2.0.0/16", 5),
        (f"{GROUPS}, port = 5", 'address = "10.2.0.0/16"', "10.2.0.0/16", 5),
        ('address = "10.1.0.0/16", port = 5', 'address = "239.2.0.0/16"', "239.2.0.0/16", 5),
        (f"{GROUPS}, port = 5", "port = 6", "239.1.0.0/16", 6),
        (f'{GROUP}, port = "5-6"', 'address = "ff05::1"', "ff05::1/128", PortRange(5, 6)),
        (f'{GROUP}, port = "5-6"', 'port = "65534-65535"', "239.1.1.1/32", PortRange(65534, 65535)),
        (f"{GROUP}, port = 5", 'port = "6-6"', "239.1.1.1/32", 6),
    ],
)
def test_what_an_output_has(given: str, output: str, address: str, port: int | PortRange) -> None:
    [found] = parse(mapped(given, output), "f").rules["a"].outputs
    expected = ip_network(address)
    assert found.address == (expected if expected.num_addresses > 1 else expected[0])
    assert found.port == port


@pytest.mark.parametrize(
    ("given", "output", "line"),
    [
        (f"{GROUPS}, port = 5", 'address = "10.0.0.1"',
         "address: expected an IPv4 prefix of /16, as the input's 239.1.0.0/16 is, got 10.0.0.1"),
        (f"{GROUPS}, port = 5", 'address = "239.2.0.0/17"',
         "address: expected an IPv4 prefix of /16, as the input's 239.1.0.0/16 is, "
         "got 239.2.0.0/17"),
        (f"{GROUPS}, port = 5", 'address = "ff05::/16"',
         "address: expected an IPv4 prefix of /16, as the input's 239.1.0.0/16 is, got ff05::/16"),
        (f"{GROUP}, port = 5", 'address = "239.2.0.0/16"',
         "address: expected one address, as the input's 239.1.1.1 is, got 239.2.0.0/16"),
        (f'{GROUP}, port = "5-6"', "port = 6",
         "port: expected a range of 2 ports, as the input's 5-6 is, got 6"),
        (f'{GROUP}, port = "5-6"', 'port = "6-8"',
         "port: expected a range of 2 ports, as the input's 5-6 is, got 6-8"),
        (f"{GROUP}, port = 5", 'port = "6-8"',
         "port: expected one port, as the input's 5 is, got 6-8"),
    ],
)  # fmt: skip
def test_ranges_of_different_size(given: str, output: str, line: str) -> None:
    [found] = problems(mapped(given, output))
    assert re.fullmatch(r"f:5:\d+: rules\.a\.outputs\[0\]\." + re.escape(line), found)


@pytest.mark.parametrize(
    ("prefix", "ttl"), [("239.2.0.0/16", 1), ("10.2.0.0/16", 64), ("239.1.0.0/16", 1)]
)
def test_default_ttl_of_a_prefix(prefix: str, ttl: int) -> None:
    output = "" if prefix == "239.1.0.0/16" else f', address = "{prefix}"'
    given = f'interface = "eth0", {GROUPS}, port = 5'
    [found] = parse(rule("a", given, f'interface = "eth1"{output}'), "f").rules["a"].outputs
    assert found.ttl == ttl


def test_loop_needs_groups() -> None:
    assert problems(mapped(f"{GROUPS}, port = 5", 'loop = true, address = "10.2.0.0/16"')) == [
        "f:5:43: rules.a.outputs[0].loop: applies to groups only; 10.2.0.0/16 has hosts"
    ]


def test_an_output_range_that_overlaps_its_input() -> None:
    given = f'interface = "eth0", {GROUPS}, port = "5000-5099"'
    assert problems(rule("a", given, 'interface = "eth0"')) == [
        "f:5:5: rules.a.outputs[0]: same interface, address and port as the input of this rule "
        "(f:3:9)"
    ]
    assert problems(rule("a", given, 'interface = "eth0", port = "5050-5149"')) == [
        "f:5:5: rules.a.outputs[0]: overlaps the input of this rule (f:3:9): "
        "both have 239.1.0.0/16 port 5050-5099 on eth0"
    ]
    parse(rule("a", given, 'interface = "eth0", port = "5100-5199"'), "f")
    parse(rule("a", given, 'interface = "eth1"'), "f")
    # Outputs are untagged.
    parse(rule("a", given + ", vlan = 5", 'interface = "eth0"'), "f")


def test_output_ranges_that_overlap() -> None:
    given = f'interface = "eth0", {GROUP}, port = "5000-5099"'
    text = rule("a", given, 'interface = "eth1"', 'interface = "eth1", port = "5099-5198"')
    assert problems(text) == [
        "f:6:5: rules.a.outputs[1]: overlaps rules.a.outputs[0] (f:5:5): "
        "both send to 239.1.1.1 port 5099 on eth1"
    ]
    parse(text.replace("5099-5198", "5100-5199"), "f")


# Sources, VLANs, limits, ESP


def test_sources() -> None:
    found = input_of(
        f'{GROUP}, port = 5, sources = ["10.0.0.5", "10.1.0.0/16", "10.0.0.5/32"], '
        'exclude = ["10.1.1.0/24"]'
    )
    assert found.sources == (ip_network("10.0.0.5"), ip_network("10.1.0.0/16"))
    assert found.exclude == (ip_network("10.1.1.0/24"),)
    assert input_of(f"{GROUP}, port = 5").sources == ()
    assert input_of(f'{GROUP}, port = 5, sources = ["128.0.0.0/1"]').sources


@pytest.mark.parametrize("key", ["sources", "exclude"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("239.1.1.1", "expected the address of a host, got the group 239.1.1.1"),
        ("239.1.1.1/32", "expected the address of a host, got the group 239.1.1.1"),
        ("239.0.0.0/8", 'expected a prefix of hosts, got "239.0.0.0/8", which has groups only'),
        ("10.0.0.1/8", 'expected a prefix without host bits, got "10.0.0.1/8"; '
         "the network is 10.0.0.0/8"),
        ("0.0.0.0", 'expected the address of a group or a host, got "0.0.0.0"'),
        ("fd00::1", "expected an IPv4 address or prefix, as the address of this input is, "
         "got fd00::1"),
        ("fd00::/8", "expected an IPv4 address or prefix, as the address of this input is, "
         "got fd00::/8"),
    ],
)  # fmt: skip
def test_wrong_input_sources(key: str, source: str, message: str) -> None:
    assert input_problems(f'{key} = ["10.9.9.9", "{source}"], port = 5, {GROUP}') == [
        f"f:3:54: rules.a.input.{key}[1]: {message}"
    ]


def test_sources_that_are_no_array() -> None:
    assert input_problems(f'{GROUP}, port = 5, sources = "10.0.0.1"') == [
        'f:3:74: rules.a.input.sources: expected an array of addresses and prefixes, got "10.0.0.1"'
    ]
    assert input_problems(f"{GROUP}, port = 5, sources = [5]") == [
        "f:3:75: rules.a.input.sources[0]: expected an address or a prefix of hosts, got 5"
    ]


@pytest.mark.parametrize("sources", ["", 'sources = ["10.0.0.5", "10.0.0.9"], '])
def test_no_source_is_left(sources: str) -> None:
    assert input_problems(
        f'{GROUP}, port = 5, {sources}exclude = ["0.0.0.0/1", "128.0.0.0/1"]'
    ) == [
        f"f:3:{74 + len(sources)}: rules.a.input.exclude: "
        "leaves no source that this input could take"
    ]


def test_vlan() -> None:
    assert input_of(f"{GROUP}, port = 5, vlan = 4094").vlan == 4094
    assert input_of(f"{GROUP}, port = 5").vlan is None


@pytest.mark.parametrize(
    ("vlan", "got"),
    [
        ("0", "0: VLAN ID 0 counts as untagged; leave the key out"),
        ("4095", "4095"),
        ("-1", "-1"),
        ("true", "true"),
        ("false", "false"),
        ('"5"', '"5"'),
        ("1.0", "the floating-point number 1.0"),
    ],
)
def test_wrong_vlans(vlan: str, got: str) -> None:
    assert input_problems(f"vlan = {vlan}, port = 5, {GROUP}") == [
        f"f:3:38: rules.a.input.vlan: expected an integer from 1 to 4094, got {got}"
    ]


def test_limits() -> None:
    limit = "limit = { packets_per_second = 20_000 }"
    found = parse(rule("a", f"{CAMERA}, {limit}", f"{HOST}, {limit}", HOST + ", port = 9"), "f")
    assert found.rules["a"].input.limit == 20_000
    assert [output.limit for output in found.rules["a"].outputs] == [20_000, None]


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        ("5", "f:3:39: rules.a.input.limit: expected a table, got 5"),
        (
            "{}",
            "f:3:39: rules.a.input.limit.packets_per_second: missing; "
            "expected an integer from 1 to 100000000",
        ),
        (
            "{ packets_per_second = 0 }",
            "f:3:62: rules.a.input.limit.packets_per_second: "
            "expected an integer from 1 to 100000000, got 0",
        ),
    ],
)
def test_wrong_limits(limit: str, line: str) -> None:
    assert input_problems(f"limit = {limit}, port = 5, {GROUP}") == [line]


def test_esp() -> None:
    given = f'interface = "eth0", {GROUP}, protocol = "esp"'
    found = parse(rule("a", given, 'interface = "eth1", ttl = 2', HOST), "f").rules["a"]
    assert found.input == Input("eth0", ip_address("239.1.1.1"), 0, protocol="esp")
    assert not found.input.is_range
    assert found.outputs == (
        Output("eth1", ip_address("239.1.1.1"), 0, ttl=2),
        Output("eth1", ip_address("10.0.0.1"), 0, ttl=64),
    )


def test_esp_has_no_ports() -> None:
    given = f'interface = "eth0", protocol = "esp", {GROUP}, port = 5'
    text = rule("a", given, 'interface = "eth1", port = 5', 'interface = "e", source_port = 5')
    message = 'ESP has no ports; leave the key out with protocol = "esp"'
    assert problems(text) == [
        f"f:3:79: rules.a.input.port: {message}",
        f"f:5:34: rules.a.outputs[0].port: {message}",
        f"f:6:38: rules.a.outputs[1].source_port: {message}",
    ]


def test_esp_outputs() -> None:
    given = f'interface = "eth0", protocol = "esp", {GROUP}'
    assert problems(rule("a", given, 'interface = "eth0"', HOST, HOST)) == [
        "f:5:5: rules.a.outputs[0]: same interface and address as the input of this rule (f:3:9)",
        "f:7:5: rules.a.outputs[2]: same interface and address as rules.a.outputs[1] (f:6:5)",
    ]


def test_wrong_protocols() -> None:
    assert input_problems(f'protocol = "tcp", {GROUP}') == [
        'f:3:42: rules.a.input.protocol: expected "esp" or "udp", got "tcp"'
    ]


def test_a_source_that_is_kept() -> None:
    assert output_of('source = "keep", ' + HOST).source == "keep"
    assert output_problems('source = "keep", source_port = 5, ' + HOST) == [
        'f:5:38: rules.a.outputs[0].source_port: source = "keep" keeps the source port too'
    ]
    assert output_problems('source = "keep", ' + to("eth1", "fd00::1")) == [
        "f:5:16: rules.a.outputs[0].source: "
        "an IPv4 source cannot be kept towards the IPv6 address fd00::1"
    ]
    assert output_problems('source = "kept", ' + HOST) == [
        'f:5:16: rules.a.outputs[0].source: expected the address of a host, or "keep", got "kept"'
    ]


def test_replies() -> None:
    assert output_of(HOST).replies is None
    assert output_of('replies = "30s", ' + HOST).replies == 30.0
    assert output_of('replies = "1 h", ' + HOST).replies == 3600.0
    assert output_problems('replies = "0.5s", ' + HOST) == [
        "f:5:17: rules.a.outputs[0].replies: expected 1 second to 1 hour, in s, min or h, "
        'as in "30s" or "5 min", got "0.5s"'
    ]
    assert output_problems("replies = 30, " + HOST) == [
        'f:5:17: rules.a.outputs[0].replies: expected a duration, as in "30s", got 30'
    ]
    assert output_of('replies = "30s", source_port = 5, ' + HOST).source_port == 5
    # Such a packet is sent from the relay, so that it can be answered; the answers keep theirs.
    both = output_of('replies = "30s", source_port = 5, source = "keep", ' + HOST)
    assert (both.source, both.source_port, both.keeps_answerer) == (None, 5, True)
    assert output_of('source = "keep", ' + HOST).keeps_answerer is False
    esp = 'interface = "eth0", address = "10.0.0.9", protocol = "esp"'
    assert problems(
        rule("a", esp, 'replies = "30s", interface = "eth1", address = "10.1.0.9"')
    ) == [
        "f:5:17: rules.a.outputs[0].replies: answers come to a port, and ESP has none; "
        'leave replies out with protocol = "esp"'
    ]


def test_the_source_of_an_output_that_keeps_the_address() -> None:
    assert output_problems('source = "fd00::1", interface = "eth1"') == [
        "f:5:16: rules.a.outputs[0].source: "
        "expected an IPv4 address, as the address of this output is, got fd00::1"
    ]


# Rules that overlap


def inputs(*given: str) -> str:
    """Rules a, b, ...: each input stands in line 3, 9, ..., at column 9."""
    return "".join(
        rule(name, f'interface = "eth0", {each}', 'interface = "eth1", ttl = 2')
        for name, each in zip("abcdefgh", given, strict=False)
    )


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        (f"{GROUPS}, port = 5", f"{GROUP}, port = 5", "239.1.1.1 port 5"),
        (f"{GROUP}, port = 5", f"{GROUPS}, port = 5", "239.1.1.1 port 5"),
        (f'{GROUP}, port = "5-9"', f"{GROUP}, port = 9", "239.1.1.1 port 9"),
        (f'{GROUPS}, port = "5-9"', f'{GROUP}, port = "8-20"', "239.1.1.1 port 8-9"),
        (f'{GROUP}, port = "5-9"', f"{GROUPS}, port = 7", "239.1.1.1 port 7"),
        (f"{GROUP}, port = 5", f'{GROUP}, port = 5, sources = ["10.0.0.0/8"]',
         "239.1.1.1 port 5 by 10.0.0.0/8"),
        (f'{GROUP}, port = 5, sources = ["10.0.0.5", "10.0.0.9"]',
         f'{GROUP}, port = 5, sources = ["10.0.0.8/30"]', "239.1.1.1 port 5 by 10.0.0.9"),
        (f'{GROUP}, port = 5, exclude = ["0.0.0.0/1"]', f"{GROUP}, port = 5",
         "239.1.1.1 port 5 by 128.0.0.0/1"),
        ('address = "ff05::/112", port = 5, sources = ["fd00::/8"]',
         'address = "ff05::1", port = 5, sources = ["fd00::1"]', "ff05::1 port 5 by fd00::1"),
        (f'{GROUPS}, protocol = "esp"', f'{GROUP}, protocol = "esp"', "239.1.1.1"),
        (f"{GROUPS}, port = 5, vlan = 7", f"{GROUP}, port = 5, vlan = 7", "239.1.1.1 port 5"),
    ],
)  # fmt: skip
def test_rules_that_overlap(one: str, other: str, what: str) -> None:
    assert problems(inputs(one, other)) == [
        "f:9:9: rules.b.input: overlaps rules.a (f:3:9): both take what is sent to " + what
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{GROUPS}, port = 5", 'address = "239.2.1.1", port = 5'),
        (f'{GROUPS}, port = "5-9"', f"{GROUP}, port = 10"),
        (
            f'{GROUP}, port = 5, sources = ["10.0.0.5"]',
            f'{GROUP}, port = 5, sources = ["10.0.0.6"]',
        ),
        (
            f'{GROUP}, port = 5, sources = ["10.0.0.0/8"], exclude = ["10.5.0.0/16"]',
            f'{GROUPS}, port = "1-9", sources = ["10.5.0.0/17", "11.0.0.0/8"]',
        ),
        (
            f'{GROUP}, port = 5, exclude = ["10.0.0.5"]',
            f'{GROUP}, port = 5, sources = ["10.0.0.5"]',
        ),
        (f"{GROUP}, port = 5", f"{GROUP}, port = 5, vlan = 7"),
        (f"{GROUP}, port = 5, vlan = 8", f"{GROUP}, port = 5, vlan = 7"),
        (f"{GROUP}, port = 5", f'{GROUP}, protocol = "esp"'),
    ],
)
def test_rules_that_do_not_overlap(one: str, other: str) -> None:
    assert len(parse(inputs(one, other), "f").rules) == 2


def test_a_clash_does_not_hide_another_one() -> None:
    given = f"{GROUP}, port = 5, sources = "
    text = inputs(given + '["10.0.0.1"]', given + '["10.0.0.1", "10.0.0.2"]',
                  given + '["10.0.0.2"]')  # fmt: skip
    assert problems(text) == [
        "f:9:9: rules.b.input: overlaps rules.a (f:3:9): "
        "both take what is sent to 239.1.1.1 port 5 by 10.0.0.1",
        "f:15:9: rules.c.input: overlaps rules.b (f:9:9): "
        "both take what is sent to 239.1.1.1 port 5 by 10.0.0.2",
    ]


def test_the_same_sources_in_other_words() -> None:
    given = f"{GROUP}, port = 5, sources = "
    assert problems(inputs(given + '["10.0.0.0/31"]', given + '["10.0.0.1", "10.0.0.0"]')) == [
        "f:9:9: rules.b.input: same input as rules.a (f:3:9)"
    ]


def test_wrong_sources_do_not_overlap() -> None:
    assert problems(inputs(f'{GROUP}, port = 5, sources = ["x"]', f"{GROUP}, port = 5")) == [
        'f:3:75: rules.a.input.sources[0]: expected an address or a prefix of hosts, got "x"'
    ]


def test_a_source_port_used_twice_for_ranges() -> None:
    text = rule("a", f'interface = "eth0", {GROUPS}, port = 5',
                'interface = "eth1", ttl = 2, source_port = 7')  # fmt: skip
    text += rule("b", to("eth2", "239.1.5.5", ", port = 5"),
                 'interface = "eth1", ttl = 2, source_port = 7')  # fmt: skip
    assert problems(text) == [
        "f:11:50: rules.b.outputs[0].source_port: "
        "same source port, source and destination as rules.a.outputs[0] (f:5:5)"
    ]


NETWORKS = st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
    lambda drawn: ip_network((0x0A000000 + drawn[0], drawn[1]), strict=False)
)
PORTS = st.tuples(st.integers(1, 6), st.integers(1, 6)).map(sorted)


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    first, last = draw(PORTS)
    listed, excluded = draw(st.lists(NETWORKS, max_size=3)), draw(st.lists(NETWORKS, max_size=2))
    where = box("eth0", draw(NETWORKS), PortRange(first, last))
    return Claim(where, spans(4, listed, excluded))


@unhurried
@given(st.lists(claims(), max_size=12))
def test_clashes_are_those_of_a_comparison_of_all(drawn: list[Claim]) -> None:
    pairs = {
        (later, earlier)
        for later, one in enumerate(drawn)
        for earlier, other in enumerate(drawn[:later])
        if one.box.overlaps(other.box) and any(common(one.spans, other.spans))
    }
    found = clashes(drawn)
    assert set(found) <= pairs
    # What two have in common may belong to a third one, which is told instead: any clash of one
    # set of rules is told until there is none.
    assert bool(found) == bool(pairs)


def test_a_source_that_two_claim_has_one_owner() -> None:
    """The first that claimed it; what lies around it has the other."""

    def claim(network: str) -> Claim:
        return Claim(
            box("eth0", ip_network("239.1.1.1/32"), PortRange(5, 5)),
            spans(4, [ip_network(network)], []),
        )

    overlaps: Overlaps[str] = Overlaps()
    overlaps.add(claim("10.0.0.4/30"), "first")
    overlaps.add(claim("10.0.0.0/24"), "second")
    owners = [list(overlaps.around(claim(f"10.0.0.{last}/32"))) for last in (3, 4, 7, 8)]
    assert owners == [["second"], ["first"], ["first"], ["second"]]


@unhurried
@given(st.lists(NETWORKS, max_size=4), st.lists(NETWORKS, max_size=4))
def test_spans(listed: list[Network], excluded: list[Network]) -> None:
    found: Spans = spans(4, listed, excluded)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(found))
    for value in (*range(0x0A000000 - 2, 0x0A000000 + 258), 0, 2**32 - 1):
        address = ip_address(value)
        expected = (not listed or any(address in each for each in listed)) and not any(
            address in each for each in excluded
        )
        assert any(low <= value <= high for low, high in found) == expected


def test_everything() -> None:
    assert spans(4, [], []) == everything(4) == ((0, 2**32 - 1),)
    assert spans(6, [], []) == everything(6) == ((0, 2**128 - 1),)


def test_many_rules_are_checked_in_no_time() -> None:
    # Pairwise, these are 12 million comparisons.
    given = [
        *(Claim(box("e", ip_address(0xEF000000 + i), 5), everything(4)) for i in range(2500)),
        *(Claim(box("e", ip_network("239.0.0.0/8"), 6 + i), everything(4)) for i in range(2500)),
    ]
    started = time.process_time()
    assert clashes(given) == []
    assert time.process_time() - started < 5


# [interfaces]


INTERFACE = "[interfaces.eth0]\n"


def with_interface(keys: str) -> str:
    return rule("a", CAMERA, HOST) + INTERFACE + keys


def test_interfaces() -> None:
    config = parse(with_interface('workers = 2\ncpus = [3, 2]\nring_size = "64 MiB"\n'), "f")
    assert config.interfaces == {"eth0": Interface(workers=2, cpus=(3, 2), ring_size=64 * 2**20)}
    config = parse(with_interface(""), "f")
    assert config.interfaces == {"eth0": Interface(workers=1, cpus=(), ring_size=32 * 2**20)}
    assert config.warnings == ()
    assert parse("", "f").interfaces == {}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1048576", 2**20),
        ("4294967296", 2**32),
        ('"1 MiB"', 2**20),
        ('"4GiB"', 2**32),
        ('"2048 KiB"', 2**21),
        ('"2 MB"', 2_000_000),
        ('"3000 KB"', 3_000_000),
        ('"4 GB"', 4_000_000_000),
        ('"2000000 B"', 2_000_000),
    ],
)
def test_ring_sizes(size: str, expected: int) -> None:
    found = parse(with_interface(f"ring_size = {size}"), "f").interfaces["eth0"]
    assert found.ring_size == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("workers = 0", "workers: expected an integer from 1 to 64, got 0"),
        ("workers = 65", "workers: expected an integer from 1 to 64, got 65"),
        ("cpus = 1", "cpus: expected an array of CPU numbers, got 1"),
        ("cpus = [4096]", "cpus[0]: expected an integer from 0 to 4095, got 4096"),
        ("cpus = [true]", "cpus[0]: expected an integer from 0 to 4095, got true"),
        ("cpus = [1, 2, 1]", "cpus[2]: CPU 1 is listed twice; first at f:8:9"),
        *(
            (
                f"ring_size = {size}",
                "ring_size: expected 1 MiB to 4 GiB, as a number of bytes or with a unit, "
                f'as in "64 MiB", got {got}',
            )
            for size, got in [
                ("1048575", "1048575"),
                ("4294967297", "4294967297"),
                ("true", "true"),
                ('"64"', '"64"'),
                ('"64 mib"', '"64 mib"'),
                ('"64 TiB"', '"64 TiB"'),
                ('"5 GiB"', '"5 GiB"'),
                ('"1.5 GiB"', '"1.5 GiB"'),
                ("64.0", "the floating-point number 64.0"),
            ]
        ),
        *(
            (f"rejoin = {given}", f"rejoin: expected {expected}, got {given}")
            for given, expected in [
                ('"4.9s"', '5 seconds to 1 hour, in s, min or h, as in "30s" or "5 min"'),
                ('"2 h"', '5 seconds to 1 hour, in s, min or h, as in "30s" or "5 min"'),
                ('"often"', '5 seconds to 1 hour, in s, min or h, as in "30s" or "5 min"'),
                ("30", 'a duration, as in "30s"'),
            ]
        ),
        ("igmp_version = 1", "igmp_version: expected an integer from 2 to 3, got 1"),
        ("mld_version = 3", "mld_version: expected an integer from 1 to 2, got 3"),
    ],
)
def test_wrong_interface_keys(keys: str, message: str) -> None:
    [line] = problems(with_interface(keys))
    assert re.fullmatch(r"f:8:\d+: interfaces\.eth0\." + re.escape(message), line)


def test_wrong_names_of_interfaces() -> None:
    [line] = problems('[interfaces."a b"]')
    assert line.startswith('f:1:13: interfaces."a b": expected an interface name (1 to 127 bytes;')


def test_an_interface_without_a_rule() -> None:
    text = with_interface("").replace(INTERFACE, "[interfaces.eth1]\n")
    assert warnings(text) == (
        "f:7:13: interfaces.eth1: no rule has its input here: no effect, unless this is another "
        "name of an interface",
    )


def test_more_cpus_than_workers() -> None:
    assert warnings(with_interface("workers = 2\ncpus = [1, 2, 3]")) == (
        "f:9:8: interfaces.eth0.cpus: more than there are workers, "
        "so that the last 1 will not be used",
    )
    assert warnings(with_interface("workers = 2\ncpus = [1]")) == ()


def test_how_memberships_are_reported() -> None:
    text = with_interface('rejoin = "2 min"\nigmp_version = 2\nmld_version = 1')
    found = parse(text, "f").interfaces["eth0"]
    assert (found.rejoin, found.igmp_version, found.mld_version) == (120.0, 2, 1)
    why = "no group is joined on this interface: no effect"
    assert warnings(text) == (f"f:10:1: interfaces.eth0.mld_version: {why}",)
    tagged = text.replace("port = 5000", "port = 5000, vlan = 7", 1)
    assert [line for line in warnings(tagged) if line.endswith(why)] == [
        f"f:8:1: interfaces.eth0.rejoin: {why}",
        f"f:9:1: interfaces.eth0.igmp_version: {why}",
        f"f:10:1: interfaces.eth0.mld_version: {why}",
    ]


def test_gro_and_busy_poll() -> None:
    given = ("gro = true", "busy_poll = true", "")
    found = [parse(with_interface(line), "f").interfaces["eth0"] for line in given]
    assert [(each.gro, each.busy_poll) for each in found] == [
        *((True, False), (False, True), (False, False))
    ]


# Includes


class Files:
    """Rule files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "d").mkdir()

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def include(self, *patterns: str, more: str = "") -> str:
        listed = ", ".join(f'"{pattern}"' for pattern in patterns)
        return self.write("main.toml", f"[daemon]\ninclude = [{listed}]\n{more}")

    def problems(self) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(self.directory / "main.toml")
        return str(caught.value).replace(f"{self.directory}/", "").split("\n")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def numbered(name: str, number: int) -> str:
    return rule(name, to("eth0", f"239.1.1.{number}", ", port = 5"), HOST)


def test_include(files: Files) -> None:
    main = files.include("d/*.toml", more=numbered("m", 1) + "[interfaces.eth0]\nworkers = 2\n")
    b = files.write("d/b.toml", numbered("b", 2))
    a = files.write("d/a.toml", numbered("z", 3) + numbered("y", 4))
    files.write("d/.hidden.toml", "$")
    files.write("d/c.txt", "$")
    config = load(main)
    assert list(config.rules) == ["m", "z", "y", "b"]
    assert config.rules["b"].place == Place(b, 1, 1)
    assert config.interfaces == {"eth0": Interface(workers=2)}
    assert config.daemon == Daemon(include=("d/*.toml",))
    assert config.files == (main, a, b)
    assert config.include_patterns == (str(files.directory / "d/*.toml"),)


def test_an_interface_in_an_included_file(files: Files) -> None:
    main = files.include("d/a.toml", more=numbered("m", 1))
    files.write("d/a.toml", "[interfaces.eth0]\nworkers = 2\n")
    assert load(main).interfaces == {"eth0": Interface(workers=2)}
    assert load(main).warnings == ()


def test_each_file_is_included_once(files: Files) -> None:
    a = files.write("d/a.toml", numbered("a", 1))
    (files.directory / "d/link.toml").symlink_to("a.toml")
    z = files.write("z.toml", numbered("z", 2))
    main = files.include("*.toml", "d/*", f"{files.directory}/d/a.toml", "d/../d/a.toml")
    assert load(main).files == (main, z, a)


def test_relative_names_are_relative_to_the_main_file(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write("d/a.toml", numbered("a", 1))
    files.include("d/*.toml")
    monkeypatch.chdir(files.directory)
    config = load("main.toml")
    assert config.rules["a"].place == Place("d/a.toml", 1, 1)
    assert config.files == tuple(str(files.directory / name) for name in ("main.toml", "d/a.toml"))
    assert config.include_patterns == (str(files.directory / "d/*.toml"),)
    monkeypatch.chdir("/")
    assert load(files.directory / "main.toml") == config


def test_a_directory_with_a_name_like_a_pattern(tmp_path: Path) -> None:
    directory = tmp_path / "[x]*"
    directory.mkdir()
    files = Files(directory)
    a = files.write("d/a.toml", numbered("a", 1))
    for pattern in ("d/a.toml", "d/*"):
        config = load(files.include(pattern))
        assert config.files[1:] == (a,)
        assert glob.glob(config.include_patterns[0]) == [a]


def test_patterns_that_match_nothing(files: Files) -> None:
    assert load(files.include("d/*.toml", "none/*.toml", "main.toml/*", "*/none/?")).files == (
        str(files.directory / "main.toml"),
    )


def test_a_file_to_include_that_is_not_there(files: Files) -> None:
    files.include("d/a.toml", more="[rule]\n")
    assert files.problems() == [
        "main.toml:2:12: daemon.include[0]: cannot read d/a.toml: No such file or directory",
        'main.toml:3:2: rule: unknown key; did you mean "rules"?',
    ]


def test_files_to_include_that_cannot_be_read(files: Files) -> None:
    (files.directory / "d/sub").mkdir()
    os.mkfifo(files.directory / "d/tube")
    (files.directory / "d/broken").symlink_to("nowhere")
    (files.directory / "d/new\nline").touch()
    files.include("d/*")
    assert files.problems() == [
        "main.toml:2:12: daemon.include[0]: cannot read d/broken: No such file or directory",
        "main.toml:2:12: daemon.include[0]: cannot read d/new\\u000Aline: "
        "the name has characters that cannot be printed",
        "main.toml:2:12: daemon.include[0]: cannot read d/sub: Is a directory",
        "main.toml:2:12: daemon.include[0]: cannot read d/tube: not a regular file",
    ]


def test_a_directory_that_cannot_be_read(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    files.include("d/*.toml")
    monkeypatch.setattr(os, "scandir", scandir)  # root may read all
    assert files.problems() == [
        "main.toml:2:12: daemon.include[0]: cannot read d: Permission denied"
    ]


def test_wrong_patterns() -> None:
    assert problems('daemon.include = "d/*"') == [
        'f:1:18: daemon.include: expected an array of file names and patterns, got "d/*"'
    ]
    assert problems('daemon.include = ["", "\\u0000", 5]') == [
        'f:1:19: daemon.include[0]: expected a file name or a pattern of such, got ""',
        'f:1:23: daemon.include[1]: expected a file name or a pattern of such, got "\\u0000"',
        "f:1:33: daemon.include[2]: expected a string, got 5",
    ]


def test_problems_of_all_files_come_at_once_and_in_order(files: Files) -> None:
    files.include("d/*.toml", more=numbered("m", 1) + "[rules.n]\n")
    files.write("d/a.toml", "[rules.a]\nenabled = 1\n" + numbered("b", 1))
    files.write("d/b.toml", "[rules.a\n")
    files.write("d/c.toml", "[daemon]\n[metrics]\n[rule]\n")
    (files.directory / "d/d.toml").write_bytes(b"\xff")
    assert files.problems() == [
        "main.toml:9:1: rules.n.outputs: missing; expected an array of tables",
        "main.toml:9:1: rules.n.input: missing; expected a table",
        "d/a.toml:1:1: rules.a.outputs: missing; expected an array of tables",
        "d/a.toml:1:1: rules.a.input: missing; expected a table",
        "d/a.toml:2:11: rules.a.enabled: expected true or false, got 1",
        "d/a.toml:5:9: rules.b.input: same input as rules.m (main.toml:5:9)",
        'd/b.toml:1:9: expected "]" at the end of the name of a table',
        "d/c.toml:1:2: daemon: only in the main file, main.toml",
        "d/c.toml:2:2: metrics: only in the main file, main.toml",
        'd/c.toml:3:2: rule: unknown key; did you mean "rules"?',
        "d/d.toml:1:1: not UTF-8: byte 0xff",
    ]


def test_names_given_twice_in_two_files(files: Files) -> None:
    files.include("d/*.toml", more=numbered("a", 1) + "[interfaces.eth0]\n")
    files.write("d/a.toml", "[interfaces.eth0]\n" + numbered("a", 1))
    assert files.problems() == [
        "d/a.toml:1:13: interfaces.eth0: given twice; first at main.toml:9:13",
        "d/a.toml:2:8: rules.a: given twice; first at main.toml:3:8",
    ]


def test_warnings_of_all_files(files: Files) -> None:
    given = rule("a", CAMERA, to("eth1", "239.2.2.2"))
    main = files.include("d/*.toml", more=given)
    a = files.write("d/a.toml", given.replace("rules.a", "rules.b").replace("239.1", "239.3"))
    assert [warning.split(": ")[:2] for warning in load(main).warnings] == [
        [f"{main}:7:5", "rules.a.outputs[0].ttl"],
        [f"{a}:5:5", "rules.b.outputs[0].ttl"],
    ]


# More warnings


def test_a_group_in_a_vlan() -> None:
    given = "vlan = 100, port = 5, address = "
    assert warnings(inputs(f'{given}"239.1.1.1"')) == (
        "f:3:38: rules.a.input.vlan: 239.1.1.1 is not joined, because a join would go out "
        "untagged: a switch that snoops hears none in VLAN 100 and may not send the group here; "
        "if so, make a VLAN interface, such as eth0.100, and take it as the input's, without vlan",
    )
    assert warnings(inputs(f'{given}"10.1.1.1"')) == ()
    assert warnings(inputs(f'{given}"224.0.0.251"')) == ()
    long = inputs(f'{given}"ff02::fb"').replace("eth0", "interface-name")
    assert "make a VLAN interface and take it" in warnings(long)[0]


@pytest.mark.parametrize("group", ["232.1.1.1", "232.1.0.0/16", "ff3e::8000:1"])
def test_source_specific_groups(group: str) -> None:
    source = "10.0.0.0" if "." in group else "fd00::"
    message = (
        f"rules.a.input.sources: {group} is for source-specific multicast: to join it, "
        "sources must all be addresses, not prefixes; routers may send nothing"
    )
    given = f'port = 5, address = "{group}"'
    assert warnings(inputs(given)) == (f"f:3:9: {message}",)
    assert warnings(inputs(f'sources = ["{source}/16"], {given}')) == (f"f:3:41: {message}",)
    first, second = (str(ip_address(source) + number) for number in (1, 2))
    mixed = warnings(inputs(f'sources = ["{source}/16", "{first}"], {given}'))
    assert [message in each for each in mixed] == [True]
    assert warnings(inputs(f'sources = ["{first}", "{second}"], {given}')) == ()


def test_source_specific_groups_by_members_are_joined_from_the_sources_that_these_name() -> None:
    for address in ("232.1.0.0/16", "232.1.1.1"):
        given = f'interface = "eth0", port = 5, address = "{address}"'
        kept = 'interface = "eth1", ttl = 2, when = "members", source = "keep"'
        assert warnings(rule("a", given, kept)) == ()
        for key in (', when = "members"', ', source = "keep"'):
            assert "source-specific" in warnings(rule("a", given, kept.replace(key, "")))[0]


@pytest.mark.parametrize("group", ["233.1.1.1", "ff05::1", "ff35:40:fd00::1"])
def test_groups_that_are_not_source_specific(group: str) -> None:
    assert warnings(inputs(f'port = 5, address = "{group}"')) == ()


@pytest.mark.parametrize(
    ("prefix", "warned"),
    [("239.1.0.0/16", 1), ("224.0.0.0/24", 0), ("224.0.0.0/16", 1), ("ff02::/16", 0),
     ("ff02::/112", 0), ("ff05::/16", 1), ("ff02::/15", 1), ("10.0.0.0/8", 0)],
)  # fmt: skip
def test_default_ttl_to_groups(prefix: str, warned: int) -> None:
    text = rule("a", f'interface = "eth0", port = 5, address = "{prefix}"', 'interface = "eth1"')
    assert len(warnings(text)) == warned


FEEDS = 'interface = "eth1", ttl = 2'


@pytest.mark.parametrize(
    ("feeding", "output", "fed", "warned"),
    [
        (f"{GROUPS}, port = 5", FEEDS, f"{GROUP}, port = 5", True),
        (f"{GROUP}, port = 5", FEEDS, f'{GROUPS}, port = "1-9"', True),
        (f"{GROUP}, port = 5", FEEDS, f"{GROUPS}, port = 6", False),
        (f"{GROUP}, port = 5", FEEDS, f"{GROUP}, port = 5, vlan = 9", False),
        (f"{GROUP}, port = 5", FEEDS, f'{GROUP}, protocol = "esp"', False),
        (f"{GROUP}, port = 5", FEEDS, f'{GROUP}, port = 5, sources = ["10.0.0.9"]', False),
        (f"{GROUP}, port = 5", f'{FEEDS}, source = "10.0.0.9"',
         f'{GROUP}, port = 5, sources = ["10.0.0.9"]', True),
        (f"{GROUP}, port = 5", f'{FEEDS}, source = "10.0.0.8"',
         f'{GROUP}, port = 5, sources = ["10.0.0.9"]', False),
        (f'{GROUP}, port = 5, sources = ["10.0.0.0/8"]', f'{FEEDS}, source = "keep"',
         f'{GROUP}, port = 5, sources = ["10.0.0.9"]', True),
        (f'{GROUP}, port = 5, sources = ["10.0.0.8"]', f'{FEEDS}, source = "keep"',
         f'{GROUP}, port = 5, sources = ["10.0.0.9"]', False),
    ],
)  # fmt: skip
def test_ranges_and_sources_that_feed(feeding: str, output: str, fed: str, warned: bool) -> None:
    text = rule("a", f'interface = "eth0", {feeding}', output)
    text += rule("b", f'interface = "eth1", {fed}', 'interface = "eth2", ttl = 2')
    found = [warning for warning in warnings(text) if "never receives" in warning]
    assert len(found) == warned


def test_ranges_that_are_relayed_both_ways() -> None:
    text = "".join(
        rule(name, f'interface = "{one}", {GROUPS}, port = 5', f'interface = "{other}", ttl = 2')
        for name, one, other in [("a", "eth0", "eth1"), ("b", "eth1", "eth0")]
    )
    assert warnings(text) == ()


# Nothing but ConfigError, whatever the text


def parse_anything(text: str | bytes) -> None:
    lines = ""
    try:
        parse(text, "f")
    except ConfigError as error:
        lines = str(error)
    lines.encode()  # can be printed


@unhurried
@given(st.binary())
def test_any_bytes(text: bytes) -> None:
    parse_anything(text)


@unhurried
@given(st.text(st.characters()))
def test_any_text(text: str) -> None:
    parse_anything(text)


PIECES = st.sampled_from(
    [*"[]{}=.,\"'#\n\\", "0x" + "f" * 5000, "9" * 5000, "1e999", "nan", "true", "{}", "[]",
     "[" * 500, "{a=" * 500, "1979-05-27", "rules", "outputs", "ttl", "\0", "\ud800", '"%"']
)  # fmt: skip


@unhurried
@given(st.sampled_from([WALL, EXAMPLE]), st.data())
def test_a_mutated_file(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 8))
        text = text[:start] + data.draw(PIECES | st.text(max_size=2)) + text[end:]
    parse_anything(text)


@unhurried
@given(st.data())
def test_a_value_of_another_type(data: st.DataObject) -> None:
    values = list(re.finditer(r'(?<== )("[^"]*"|\d+|true|false|\{[^}]*\}|\[[^]]*\])', WALL))
    value = data.draw(st.sampled_from(values))
    wrong = data.draw(st.sampled_from(["''", "0", "-1", "1.5", "nan", "true", "[]", "{}", "[[]]",
                                       "[{}]", "07:32:00", "0x" + "f" * 5000]))  # fmt: skip
    parse_anything(WALL[: value.start()] + wrong + WALL[value.end() :])


# The example and the manual page


def keys_of(kind: mi.Type) -> Iterator[str]:
    """Every key of the schema."""
    match kind:
        case mi.Metadata(type=inner) | mi.DictType(value_type=inner) | mi.ListType(item_type=inner):
            yield from keys_of(inner)
        case mi.StructType(fields=fields):
            for entry in fields:
                yield entry.encode_name
                yield from keys_of(entry.type)


KEYS = sorted(set(keys_of(msgspec.inspect.type_info(File))))


def test_keys_are_those_of_the_schema() -> None:
    assert {"daemon", "rules", "log_level", "input", "outputs", "source_port"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_in_the_manual_page(key: str) -> None:
    page = (ROOT / "man" / "mcr.toml.5").read_text()
    assert re.search(rf"^\.(It Ic {key} |Ss \[{key}\b)", page, re.MULTILINE)


def test_the_example_passes() -> None:
    config = parse(EXAMPLE, "mcr.toml.example")
    assert list(config.rules) == ["camera-1"]


def test_the_example_passes_with_all_of_it_in_use() -> None:
    text = example(EXAMPLE)
    config = parse(text, "mcr.toml.example")
    assert len(config.rules) == 15 + 3 + 3 * 2  # and those of [reflect.NAME]
    assert config.warnings == ()
    for key in KEYS:
        assert re.search(rf"\b{key}\b( *=|[.\]])", text), key


# What is worth a warning, and metrics


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("2 s", 2.0), ("1500ms", 1.5), ("1.5 min", 90.0), ("24h", 86400.0)],
)
def test_silence(text: str, seconds: float) -> None:
    given = rule("a", CAMERA, HOST) + f'silence = "{text}"\n'
    assert parse(given, "f").rules["a"].silence == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("1ms", 0.001), ("200ms", 0.2), ("1.5 s", 1.5), ("10s", 10.0)]
)
def test_dedupe(text: str, seconds: float) -> None:
    given = rule("a", f'{CAMERA}, dedupe = "{text}"', HOST)
    assert parse(given, "f").rules["a"].input.dedupe == seconds


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ('"10.0.0.1"', ["10.0.0.1"]),
        ('["fd00::1", "10.0.0.1", "fd00::1"]', ["fd00::1", "10.0.0.1"]),
    ],
)
def test_active_with(text: str, addresses: list[str]) -> None:
    given = rule("a", CAMERA, HOST, more=f"active_with = {text}")
    assert parse(given, "f").rules["a"].active_with == tuple(map(ip_address, addresses))
    table = f'[reflect.r]\ninterfaces = ["a", "b"]\nprotocol = "knx"\nactive_with = {text}\n'
    found = {each.active_with for each in parse(table, "f").rules.values()}
    assert found == {tuple(map(ip_address, addresses))}


def test_standby() -> None:
    pair = 'active_with = "10.0.0.1"; standby = "500ms"'.replace("; ", "\n")
    found = parse(rule("a", CAMERA, HOST, more=pair), "f").rules["a"]
    assert found.standby == 0.5


@pytest.mark.parametrize(
    ("given", "output", "more", "said"),
    [
        (CAMERA, HOST, 'standby = "1s"', "is for a rule with active_with"),
        (CAMERA, HOST, 'standby = "1 h"', 'expected 10 ms to 10 s, in ms or s, as in "500ms"'),
        (
            CAMERA,
            f'{HOST}, replies = "10s"',
            'standby = "1s"\nactive_with = "10.0.0.1"',
            "is for a rule without replies: answers come to the host that asked",
        ),
    ],
)
def test_wrong_standby(given: str, output: str, more: str, said: str) -> None:
    [line] = problems(rule("a", given, output, more=more))
    assert line.startswith("f:2:")
    assert f"rules.a.standby: {said}" in line


@pytest.mark.parametrize(
    ("key", "setting"), [("dedupe", 'dedupe = "1s"'), ("limit", "limit = {packets_per_second = 5}")]
)
def test_standby_keeps_nothing_that_the_other_host_drops(key: str, setting: str) -> None:
    given = f"{CAMERA}, {setting}"
    more = 'active_with = "10.0.0.1"\n'
    assert parse(rule("a", given, HOST, more=more), "f").rules["a"].standby is None
    text = rule("a", given, HOST, more=more + 'standby = "1s"')
    (at,) = (line for line in text.splitlines() if setting in line)
    place = f"f:{text.splitlines().index(at) + 1}:{at.index(setting) + 1}"
    assert problems(text) == [
        f"{place}: rules.a.input.{key}: is for a rule without standby: "
        "what another host drops by it is kept here"
    ]


@pytest.mark.parametrize("setting", ['dedupe = "1s"', "limit = {packets_per_second = 5}"])
@pytest.mark.parametrize("at", [0, 1])
def test_nor_does_any_of_several_inputs(at: int, setting: str) -> None:
    legs = [CAMERA, CAMERA.replace("eth0", "eth2")]
    legs[at] += f", {setting}"
    more = 'active_with = "10.0.0.1"\nmerge = {by = "content"}\n'
    inputs = ", ".join(f"{{ {leg} }}" for leg in legs)
    text = f"[rules.a]\n{more}inputs = [{inputs}]\noutputs = [{{ {HOST} }}]\n"
    assert parse(text, "f").rules["a"].standby is None
    [line] = problems(f'{text}standby = "1s"\n')
    key = setting.split(maxsplit=1)[0]
    assert f":{inputs.index(setting) + 11}: rules.a.inputs[{at}].{key}: is for a rule with" in line


def test_standby_of_several_inputs_has_no_delay() -> None:
    more = 'active_with = "10.0.0.1"\nstandby = "1s"'
    text = f"[rules.a]\n{more}\ninputs = [{{ {CAMERA} }}, {{ {CAMERA.replace('eth0', 'eth2')} }}]\n"
    text += f'merge = {{ by = "rtp" }}\noutputs = [{{ {HOST} }}]\n'
    assert parse(text, "f").rules["a"].standby == 1.0
    found = set(problems(text.replace('"rtp"', '"rtp", delay = "50ms"')))
    assert found == {
        "f:5:23: rules.a.merge.delay: is for a rule without standby: "
        "what is kept leaves in the order in which it came"
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7", "expected the address of a host, or an array of 1 to 16 of them, got 7"),
        ("[]", "expected the address of a host, or an array of 1 to 16 of them, got an array"),
        ('["10.0.0.1", 7]', "expected the address of a host, or an array of 1 to 16 of them"),
        ('"10.0.0.0/24"', 'expected the address of a host, got "10.0.0.0/24"'),
        ('["239.1.1.1"]', "expected the address of a host, got the group 239.1.1.1"),
        ('"vip"', 'expected the address of a host, got "vip"'),
        ('"127.0.0.1"', "expected an address that moves between hosts; every one has 127.0.0.1"),
    ],
)
def test_wrong_active_with(text: str, said: str) -> None:
    [line] = problems(rule("a", CAMERA, HOST, more=f"active_with = {text}"))
    assert line.startswith(f"f:2:15: rules.a.active_with: {said}"), line


@pytest.mark.parametrize("text", ["", "200", "0s", "0.5ms", "11s", "1 day"])
def test_wrong_dedupe(text: str) -> None:
    [line] = input_problems(f'dedupe = "{text}", port = 5, {GROUP}')
    assert 'rules.a.input.dedupe: expected 1 ms to 10 s, as in "200ms"' in line


@pytest.mark.parametrize("members", [0, 65537])
def test_wrong_members(members: int) -> None:
    [line] = problems(f"[interfaces.eth0]\nmembers = {members}\n" + rule("a", CAMERA, HOST))
    assert "interfaces.eth0.members: " in line


@pytest.mark.parametrize(
    "text", ["", "2", "0s", "999ms", "25h", "-1s", "1 day", "1e3s", "s", "1  s"]
)
def test_wrong_silence(text: str) -> None:
    [line] = problems(rule("a", CAMERA, HOST) + f'silence = "{text}"\n')
    assert line.endswith(
        'rules.a.silence: expected 1 second to 1 day, in ms, s, min or h, as in "2s" or "5 min",'
        f' got "{text}"'
    )


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('"rtp"', Inspect("rtp")),
        ('"mpeg-ts"', Inspect("mpeg-ts")),
        ('"moldudp64"', Inspect("moldudp64")),
        ('"auto"', Inspect("auto")),
        ("{ offset = 0, bytes = 4 }", Inspect("sequence", 0, 4, "big")),
        ('{ offset = 8, bytes = 8, order = "little" }', Inspect("sequence", 8, 8, "little")),
    ],
)
def test_inspect(text: str, meant: Inspect) -> None:
    assert parse(rule("a", CAMERA, HOST) + f"inspect = {text}\n", "f").rules["a"].inspect == meant
    assert parse(rule("a", CAMERA, HOST), "f").rules["a"].inspect is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '"sequence"',
            ': expected "auto", "moldudp64", "mpeg-ts", "rtp" or a table, got "sequence"',
        ),
        ("4", ': expected "auto", "moldudp64", "mpeg-ts", "rtp" or a table, got 4'),
        ("{ offset = 0 }", ".bytes: missing; expected an integer from 1 to 8"),
        ("{ offset = 0, bytes = 9 }", ".bytes: expected an integer from 1 to 8, got 9"),
        ("{ offset = -1, bytes = 1 }", ".offset: expected an integer from 0 to 65000, got -1"),
        (
            '{ offset = 0, bytes = 1, endian = "big" }',
            '.endian: unknown key; did you mean "order"?',
        ),
    ],
)
def test_wrong_inspect(text: str, problem: str) -> None:
    [line] = problems(rule("a", CAMERA, HOST) + f"inspect = {text}\n")
    assert line.endswith(f"rules.a.inspect{problem}")


@pytest.mark.parametrize(("text", "part"), [("0.1%", 0.001), ("100 %", 1.0), ("2%", 0.02)])
def test_loss(text: str, part: float) -> None:
    assert parse(f'[daemon]\nloss = "{text}"\n', "f").daemon.loss == pytest.approx(part)


@pytest.mark.parametrize("text", ["", "1", "0%", "101%", "-1%", "%", "0.1 per cent"])
def test_wrong_loss(text: str) -> None:
    [line] = problems(f'[daemon]\nloss = "{text}"\n')
    assert line == f'f:2:8: daemon.loss: expected a percentage, as in "0.1%", got "{text}"'


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:9464", "0.0.0.0:1", "[::]:65535"])
def test_where_to_listen(text: str) -> None:
    assert parse(f'[metrics]\nlisten = "{text}"\n', "f").metrics.listen == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":9464",
        "9464",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "::1:9464",
        "host:9464",
        "[127.0.0.1]:9464",
        "127.0.0.1:http",
        "127.0.0.1:9464 ",
    ],
)
def test_wrong_places_to_listen(text: str) -> None:
    [line] = problems(f'[metrics]\nlisten = "{text}"\n')
    assert line == (
        'f:2:10: metrics.listen: expected an address and a port, as in "127.0.0.1:9464" or'
        f' "[::1]:9464", got "{text}"'
    )


def test_an_included_file_may_not_say_where_the_metrics_are(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text('[metrics]\nlisten = "127.0.0.1:9464"\n')
    main = tmp_path / "main.toml"
    main.write_text('[daemon]\ninclude = ["more.toml"]\n')
    with pytest.raises(ConfigError, match="metrics"):
        load(main)
