"""A rule file becomes a Config, or every one of its problems is named at its place."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import textwrap
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import msgspec.inspect as mi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcrd.config import ConfigError, Problem, load, parse
from mcrd.config.schema import File
from mcrd.model import Config, Daemon, Input, Output, Place, Rule

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


@pytest.mark.parametrize("name", ["e", "eth0.100", "a" * 15, "ä" * 6, "...", "br-lan", "eth%d"])
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
        ("a = [1,\n 2", "f:2:3: unclosed array"),
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
            { interface = "eth1", adress = "239.2.2.2", ttl = 300, dscp = true },
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
        [interfaces.eth0]
        """
    assert problems(text) == [
        "f:2:9: daemon.watch: expected true or false, got 1",
        'f:3:13: daemon.log_level: expected "debug", "error", "info" or "warning", got "loud"',
        "f:5:23: rules.a.input.interface: expected an interface name (1 to 15 bytes; "
        'no "/", ":" or white space; not "." or ".."), got "eth/0"',
        'f:5:42: rules.a.input.address: expected an IPv4 or IPv6 address, got "239.1.1"',
        "f:5:60: rules.a.input.port: expected an integer from 1 to 65535, got 0",
        "f:7:5: rules.a.outputs[0].address: missing; expected an IPv4 or IPv6 address",
        'f:7:27: rules.a.outputs[0].adress: unknown key; did you mean "address"?',
        "f:7:55: rules.a.outputs[0].ttl: expected an integer from 1 to 255, got 300",
        "f:7:67: rules.a.outputs[0].dscp: expected an integer from 0 to 63, got true",
        "f:8:5: rules.a.outputs[1]: expected a table, got 7",
        'f:10:11: rules.a.enabled: expected true or false, got "yes"',
        "f:12:9: rules.b.input: expected a table, got an array",
        "f:13:11: rules.b.outputs: expected at least 1, got none",
        "f:14:15: rules.b.description: expected a string, got the date or time 1979-05-27",
        "f:15:1: rules.c.input: missing; expected a table",
        "f:15:1: rules.c.outputs: missing; expected an array of tables",
        "f:17:61: rules.d.input.port: expected an integer from 1 to 65535, "
        "got the floating-point number 5000.0",
        "f:18:63: rules.d.outputs[0].loop: only a group has it, and 10.0.0.1 is a host",
        "f:19:2: interfaces: unknown key; known here: daemon, rules",
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
    ["", ".", "..", "a" * 16, "ä" * 8, "a/b", "a:1", "a b", "a\\n", "a\\u000b", "à", "\\u0000"],
)
def test_wrong_interface_names(name: str) -> None:
    [line] = output_problems(to(name, "10.0.0.1"))
    assert line.startswith("f:5:19: rules.a.outputs[0].interface: expected an interface name (")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", 'expected an IPv4 or IPv6 address, got ""'),
        ("10.0.0.0/8", 'expected an IPv4 or IPv6 address, got "10.0.0.0/8"'),
        ("10.0.0.01", 'expected an IPv4 or IPv6 address, got "10.0.0.01"'),
        ("10.0.0.1%eth0", 'expected an address without "%", got "10.0.0.1%eth0"; '
         "the key interface says which interface"),
        ("fe80::1%eth0", 'expected an address without "%", got "fe80::1%eth0"; '
         "the key interface says which interface"),
        ("0.0.0.0", 'expected the address of a group or a host, got "0.0.0.0"'),
        ("::", 'expected the address of a group or a host, got "::"'),
        ("255.255.255.255", "expected the address of a group or a host, "
         "got the broadcast address 255.255.255.255"),
        ("::ffff:10.0.0.1", 'expected an IPv4 or IPv6 address, got "::ffff:10.0.0.1"; '
         'write "10.0.0.1"'),
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
        "f:5:56: rules.a.outputs[0].loop: only a group has it, and 10.0.0.1 is a host"
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


def test_the_examples_of_the_manual_page_pass() -> None:
    page = (ROOT / "man" / "mcr.toml.5").read_text()
    blocks = re.findall(r"^\.Bd [^\n]*\n(\[.*?)^\.Ed$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        assert parse(block, "f").rules


def test_the_example_passes() -> None:
    config = parse(EXAMPLE, "mcr.toml.example")
    assert list(config.rules) == ["camera-1"]


def test_the_example_passes_with_all_of_it_in_use() -> None:
    text = re.sub(r"^# (?=\[|[a-z_.]+ *= )", "", EXAMPLE, flags=re.MULTILINE)
    config = parse(text, "mcr.toml.example")
    assert len(config.rules) == 5
    assert config.warnings == ()
    for key in KEYS:
        assert re.search(rf"\b{key}\b( *=|[.\]])", text), key
