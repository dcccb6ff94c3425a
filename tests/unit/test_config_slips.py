"""Slips that people make in rule files, and what they are told."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrd.config import ConfigError, parse
from mcrd.config.elsewhere import ELSEWHERE
from mcrd.config.schema import File, Input, Number, Output, Rule

INLINE = """\
[rules.a]
input = {{ interface = "eth0", address = "239.1.1.1", port = {} }}
outputs = [{{ interface = "eth1", address = "10.0.0.1" }}]
"""


def told(text: str) -> list[str]:
    """The problems of a text, as lines."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return str(caught.value).splitlines()


def quotes(what: str, text: str) -> str:
    return f'{what} needs quotes; write "{text}"'


def zeros(got: str, plain: str) -> str:
    return f'a number has no leading zeros in TOML, got "{got}"; write {plain}'


PLAIN = 'letters A to Z and a to z, digits, "_" and "-" stands in quotes'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        # Values
        (INLINE.format("05000"), "f:2:61: " + zeros("05000", "5000")),
        ("input.port = 08\n", "f:1:14: " + zeros("08", "8")),
        ("cpus = [1, 02]\n", "f:1:12: " + zeros("02", "2")),
        ("a = -007 # x\n", "f:1:5: " + zeros("-007", "-7")),
        ("a = 00", "f:1:5: " + zeros("00", "0")),
        (INLINE.format("5000-5099"), "f:2:61: " + quotes("a range", "5000-5099")),
        ("port = 5000:5099", "f:1:8: " + quotes("a range", "5000-5099")),
        ("address = 239.1.1.1\n", "f:1:11: " + quotes("an address", "239.1.1.1")),
        ("a = { b = 10.0.0.0/8, c = 1 }", "f:1:11: " + quotes("an address", "10.0.0.0/8")),
        ("a = [10.0.0.1, 10.0.0.2]", "f:1:6: " + quotes("an address", "10.0.0.1")),
        ("a = ff02::1\n", "f:1:5: " + quotes("an address", "ff02::1")),
        ("a = 127.0.0.1:9464", "f:1:5: " + quotes("an address", "127.0.0.1:9464")),
        ("a = { interface = eth0, b = 1 }", "f:1:19: " + quotes("a string", "eth0")),
        ("source = keep\n", "f:1:10: " + quotes("a string", "keep")),
        ("ring_size = 32 MiB\n", "f:1:13: " + quotes("a value with a unit", "32 MiB")),
        ("a = { silence = 2s }\n", "f:1:17: " + quotes("a value with a unit", "2s")),
        ("loss = 0.1%\n", "f:1:8: " + quotes("a value with a unit", "0.1%")),
        ("a = True\n", 'f:1:5: expected true or false, got "True"; write true'),
        ("a = { b = off }", 'f:1:11: expected true or false, got "off"; write false'),
        ("a = none\n", 'f:1:5: TOML has no "none"; leave the key out'),
        ("a = 5_\n", 'f:1:5: in a number "_" stands between two digits, got "5_"'),
        ("a = .5\n", 'f:1:5: a number has digits before and after its point, got ".5"'),
        ("a = 0,1\n", 'f:1:6: a number has a point in TOML, got ","'),
        ("a =\n", "f:1:4: a value is missing"),
        ("a = # x\n", "f:1:5: a value is missing"),
        ("a == 1\n", 'f:1:4: one "=" stands between key and value, got a second one'),
        ("a => 1\n", 'f:1:4: "=" stands between key and value, got "=>"'),
        ("a: 1\n", 'f:1:2: expected "=" between key and value, got ":"'),
        # Strings
        (
            "a = \u201ceth0\u201d\n",
            'f:1:5: a string stands in straight quotes, " or \', got "\u201ceth0\u201d"',
        ),
        (
            '# it\'s "\nb = "eth0\nc = "d"',
            'f:2:5: the string is not closed: " is missing before the end of the line',
        ),
        (
            "a = { b = 'eth0 }\n",
            "f:1:11: the string is not closed: ' is missing before the end of the line",
        ),
        ('a = """x\n y\n', 'f:1:5: the string is not closed: """ is missing'),
        (
            'a = "C:\\mcr"',
            'f:1:8: "\\\\m" is no escape; for a backslash write two,'
            " or put the string into single quotes",
        ),
        # Arrays and tables
        (
            'a = { b = "x" c = 1 }',
            'f:1:15: expected "," or "}" in the table that begins at f:1:5, got "c"',
        ),
        (
            "a = [\n{ b = 1 }\n{ b = 2 }\n]",
            'f:3:1: expected "," or "]" in the array that begins at f:1:5, got "{"',
        ),
        (
            'o = [{ a = "]" }\n[rules.b]\nc = 1\n',
            'f:2:1: the array that begins at f:1:5 is not closed: "]" is missing',
        ),
        (
            "o = [{ a = 1 },\n[rules.b]\nc = 1\n",
            'f:2:2: the array that begins at f:1:5 is not closed: "]" is missing',
        ),
        ("a = { b = 1]", 'f:1:12: the table that begins at f:1:5 ends with "}", got "]"'),
        ("a = [1, , 2]", 'f:1:9: there is nothing before this ","'),
        (
            "a.b = { c = 1 }\n  a.b.d = 2\n",
            "f:2:3: nothing can be added to a.b here:"
            " an array in [ ] and a table in { } are complete where they end",
        ),
        # Keys, headers, lines
        ("a\n", 'f:1:2: expected "=" and a value behind the key'),
        (
            "a b = 1",
            f'f:1:3: expected "=" behind the key, got "b"; a key with anything but {PLAIN}',
        ),
        ("[a\nb = 1", 'f:1:3: expected "]" at the end of the name of a table'),
        ("[a/b]", f'f:1:3: expected "]" or ".", got "/b"; a name with anything but {PLAIN}'),
        ("; x\n", 'f:1:1: a comment begins with "#" in TOML'),
        ("a = 1 // x\n", 'f:1:7: a comment begins with "#" in TOML'),
        ("a = 1;\n", 'f:1:6: nothing separates lines in TOML; leave out ";"'),
        ("a = true,\nb = 1\n", 'f:1:9: nothing separates lines in TOML; leave out ","'),
        ("a = true b = 1\n", 'f:1:10: expected the end of the line, got "b"'),
        ('{ "rules": {} }', 'f:1:1: expected a key or the name of a table in [ ], got "{"'),
    ],
)
def test_slips_in_toml(text: str, line: str) -> None:
    assert told(text) == [line]
    crlf = text.replace("\n", "\r\n")
    assert told(crlf) == [line]


@given(st.text("ab05.:=,;/[]{}\"'#\n\\- ", max_size=40))
def test_any_slip_has_a_place(text: str) -> None:
    try:
        parse(text, "f")
    except ConfigError as error:
        for problem in error.problems:
            assert problem.message
            assert 1 <= problem.place.line <= text.count("\n") + 1


def unknown(place: str, key: str, line: str) -> str:
    """What is said of an unknown key of an input, output, rule or file."""
    inside = {"input": "", "output": "", "rule": "", "file": ""} | {place: line}
    text = (
        f"{inside['file']}\n[rules.a]\n{inside['rule']}\n[rules.a.input]\n{inside['input']}\n"
        f"[[rules.a.outputs]]\n{inside['output']}\n"
    )
    (found,) = [each for each in told(text) if f"{key}: unknown key" in each]
    return found.partition("unknown key")[2]


@pytest.mark.parametrize(
    ("place", "key", "ours"),
    [
        *(("input", key, "address") for key in ("group", "dst", "dest", "ip", "mcast-group")),
        *(("output", key, "address") for key in ("group", "dst", "to", "GROUP")),
        *(("output", key, "interface") for key in ("iface", "dev", "device")),
        *(("output", key, "source") for key in ("source_address", "src", "from")),
        *(("input", key, "sources") for key in ("source_address", "src", "source")),
        *(("input", key, "port") for key in ("dport", "dst_port")),
        *(("output", key, "source_port") for key in ("sport", "src_port")),
        *(("output", key, "ttl") for key in ("hop_limit", "hops")),
        *(("rule", key, "outputs") for key in ("out", "output", "to", "dst")),
        *(("rule", key, "input") for key in ("in", "from")),
        *(("file", key, "rules") for key in ("routes", "mroute")),
        *(("file", key, "interfaces") for key in ("interface", "iface")),
    ],
)
def test_keys_as_other_programs_call_them(place: str, key: str, ours: str) -> None:
    assert unknown(place, key, f"{key} = 1") == f'; did you mean "{ours}"?'


def test_keys_of_nobody() -> None:
    assert unknown("output", "xyzzy", "xyzzy = 1").startswith("; known here: address, dscp")


def test_what_others_call_keys_leads_to_keys() -> None:
    known = {
        name for kind in (File, Rule, Input, Output, Number) for name in kind.__struct_fields__
    }
    known |= {"packets_per_second", "workers", "cpus", "ring_size", "log_level", "listen"}
    assert {ours for meant in ELSEWHERE.values() for ours in meant} <= known


ADDRESS = "expected an IPv4 or IPv6 address, got"
PREFIX = 'expected an address or a prefix such as "239.1.0.0/16" or "ff05::/112", got'
OWN = "; the port is a key of its own: write"
HOST = 'expected the address of a host, or "keep", got'
SOURCE = "expected an address or a prefix of hosts, got"


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        (
            "address",
            "239.1.1.1:5",
            f'{ADDRESS} "239.1.1.1:5"{OWN} address = "239.1.1.1" and port = 5',
        ),
        (
            "address",
            "[ff02::1]:5",
            f'{ADDRESS} "[ff02::1]:5"{OWN} address = "ff02::1" and port = 5',
        ),
        (
            "address",
            "239.1.1.1:5-9",
            f'{ADDRESS} "239.1.1.1:5-9"{OWN} address = "239.1.1.1" and port = "5-9"',
        ),
        (
            "address",
            "239.1.0.0/16:5",
            f'{PREFIX} "239.1.0.0/16:5"{OWN} address = "239.1.0.0/16" and port = 5',
        ),
        ("address", "[ff02::1]", f'{ADDRESS} "[ff02::1]"; write "ff02::1"'),
        ("address", "[ff05::]/112", f'{PREFIX} "[ff05::]/112"; write "ff05::/112"'),
        (
            "address",
            "[ff02::1%eth0]:5",
            f'{ADDRESS} "[ff02::1%eth0]:5"; write "ff02::1", '
            "and the interface as the key interface",
        ),
        (
            "address",
            "ff05::/64%eth0",
            'expected a prefix without "%", got "ff05::/64%eth0"; '
            "the key interface says which interface",
        ),
        (
            "address",
            "cam.example:5000",
            'expected the name of a host, got "cam.example:5000"'
            f'{OWN} address = "cam.example" and port = 5000',
        ),
        (
            "address",
            "localhost",
            f'{ADDRESS} "localhost"; a name, with a dot, may stand in an output',
        ),
        ("address", "239.1.1.l", f'{ADDRESS} "239.1.1.l"'),
        (
            "source",
            "cam.example",
            f'{HOST} "cam.example"; a name, with a dot, may stand in an output',
        ),
        ("address", "239.1.1.300:5", f'{ADDRESS} "239.1.1.300:5"'),
        (
            "source",
            "10.0.0.1:5",
            f'{HOST} "10.0.0.1:5"{OWN} source = "10.0.0.1" and source_port = 5',
        ),
        (
            "source",
            "10.0.0.5/24",
            f'{HOST} "10.0.0.5/24", which is a prefix; one address goes here',
        ),
        (
            "sources",
            "10.0.0.1:5",
            f'{SOURCE} "10.0.0.1:5"; a source has no port here: write "10.0.0.1"',
        ),
        (
            "sources",
            "10.0.0.0/8:5",
            f'{PREFIX} "10.0.0.0/8:5"; a source has no port here: write "10.0.0.0/8"',
        ),
    ],
)
def test_an_address_with_more_than_an_address(key: str, text: str, says: str) -> None:
    given = f'["{text}"]' if key == "sources" else f'"{text}"'
    place = "input" if key == "sources" else "outputs[0]"
    table = (
        f"[rules.a.input]\n{key} = {given}"
        if key == "sources"
        else (f"[[rules.a.outputs]]\n{key} = {given}")
    )
    item = "[0]" if key == "sources" else ""
    assert f"rules.a.{place}.{key}{item}: {says}" in [
        line.split(": ", 1)[1] for line in told(table)
    ]
