"""[reflect.NAME]: the rules that it stands for, and what is wrong with it at its place."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import textwrap
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrd.config import Blocks, ConfigError, load, parse
from mcrd.config.problems import is_about
from mcrd.config.reflect import PROTOCOLS
from mcrd.model import Config, Place, Rule, is_pattern
from mcrd.planning import names
from mcrd.planning.changes import changes
from mcrd.planning.links import Link
from mcrd.planning.patterns import called, expand, several

THREE = 'interfaces = ["lan", "iot", "guest"]'
TWO = 'interfaces = ["lan", "iot"]'


def table(*lines: str, name: str = "home") -> str:
    return "\n".join([f"[reflect.{name}]", *lines, ""])


def of(*lines: str) -> dict[str, Rule]:
    config = parse(table(*lines), "f")
    assert config.warnings == ()
    return dict(config.rules)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [str(problem) for problem in caught.value.problems]


def ways(rules: dict[str, Rule]) -> dict[str, list[tuple[str | None, float | None]]]:
    """By where packets come from: where they go, and how long answers come back."""
    return {
        name.partition(":")[2]: [(output.interface, output.replies) for output in rule.outputs]
        for name, rule in rules.items()
    }


def test_it_is_what_would_be_written_by_hand() -> None:
    written = parse(
        textwrap.dedent("""\
        [rules.lan]
        input = { interface = "lan", address = "224.0.0.251", port = 5353, limit = { packets_per_second = 1000 } }
        outputs = [
            { interface = "iot", source_port = 5353, ttl = 255, replies = "10s" },
            { interface = "guest", source_port = 5353, ttl = 255, replies = "10s" },
        ]
        """),  # noqa: E501
        "f",
    ).rules["lan"]
    rules = of(THREE, 'protocol = "mdns"', 'family = "ipv4"')
    assert list(rules) == ["home/mdns4:lan", "home/mdns4:iot", "home/mdns4:guest"]
    assert rules["home/mdns4:lan"] == replace(written, name="home/mdns4:lan")
    assert rules["home/mdns4:lan"].place == Place("f", 1, 1)


def ends(rules: dict[str, Rule]) -> dict[str, str]:
    return {
        name.partition("/")[2].partition(":")[0]: f"{rule.input.address} {rule.input.port}"
        for name, rule in rules.items()
    }


@pytest.mark.parametrize(
    ("protocol", "where", "ttl", "replies"),
    [
        ("mdns", {"mdns4": "224.0.0.251 5353", "mdns6": "ff02::fb 5353"}, 255, 10),
        ("llmnr", {"llmnr4": "224.0.0.252 5355", "llmnr6": "ff02::1:3 5355"}, 255, 10),
        (
            "ssdp",
            {
                "ssdp4": "239.255.255.250 1900",
                "ssdp6": "ff02::c 1900",
                "ssdp6-site": "ff05::c 1900",
            },
            2,
            30,
        ),
        (
            "ws-discovery",
            {"ws-discovery4": "239.255.255.250 3702", "ws-discovery6": "ff02::c 3702"},
            1,
            30,
        ),
        (
            "coap",
            {
                "coap4": "224.0.1.187 5683",
                "coap6": "ff02::fd 5683",
                "coap6-site": "ff05::fd 5683",
            },
            1,
            145,
        ),
        (
            "wake-on-lan",
            {"wake-on-lan-9": "broadcast 9", "wake-on-lan-7": "broadcast 7"},
            64,
            None,
        ),
        ("bacnet", {"bacnet4": "broadcast 47808"}, 64, None),
        ("knx", {"knx4": "224.0.23.12 3671"}, 16, 30),
        (
            "sacn",
            {
                "sacn4": "239.255.0.0/16 5568",
                "sacn6": "ff18::8300:0/112 5568",
                "sacn6-words": "ff18::83:0:0:0/96 5568",
            },
            1,
            None,
        ),
    ],
)
def test_each_protocol(
    protocol: str, where: dict[str, str], ttl: int, replies: float | None
) -> None:
    rules = of(TWO, f'protocol = "{protocol}"')
    assert ends(rules) == where
    outputs = [output for rule in rules.values() for output in rule.outputs]
    assert {(output.ttl, output.replies) for output in outputs} == {(ttl, replies)}
    kept = {output.source for output in outputs}
    assert kept == ({"keep"} if protocol == "bacnet" else {None})
    ports = {output.source_port for output in outputs}
    assert ports == ({5353} if protocol == "mdns" else {None})
    limit = None if protocol == "sacn" else 1000
    assert {rule.input.limit for rule in rules.values()} == {limit}


def test_the_protocols_that_a_file_may_name() -> None:
    (line,) = problems(table(TWO, 'protocol = "mdsn"'))
    *first, last = sorted(PROTOCOLS)
    known = ", ".join(f'"{name}"' for name in first) + f' or "{last}"'
    assert line == f'f:3:12: reflect.home.protocol: expected {known}, got "mdsn"'


def test_any_other_port() -> None:
    game = ('address = "broadcast"', 'port = "27015-27020"')
    rules = of(TWO, *game, 'replies = "20s"', "ttl = 4", "limit = { packets_per_second = 5 }")
    assert list(rules) == ["home/udp4:lan", "home/udp4:iot"]
    given = rules["home/udp4:lan"].input
    assert (str(given.address), str(given.port), given.limit) == ("broadcast", "27015-27020", 5)
    (output,) = rules["home/udp4:lan"].outputs
    assert (output.replies, output.ttl) == (20, 4)
    rules = of(TWO, 'address = "ff05::1234"', "port = 5000", "ttl = 8", 'source = "keep"')
    assert list(rules) == ["home/udp6:lan", "home/udp6:iot"]
    assert rules["home/udp6:iot"].outputs[0].source == "keep"


def test_what_a_table_says_comes_before_what_the_protocol_wants() -> None:
    rules = of(TWO, 'protocol = "ssdp"', "ttl = 4", 'replies = "5s"', 'family = "ipv4"')
    (output,) = rules["home/ssdp4:lan"].outputs
    assert (output.ttl, output.replies) == (4, 5)
    # A source that is kept answers by itself, and has its own port.
    for key, more in (("ssdp", 'source = "keep"'), ("mdns", 'replies = "1s"')):
        for rule in of(TWO, f'protocol = "{key}"', more).values():
            (output,) = rule.outputs
            assert (output.source == "keep") != (output.replies == 1)
            assert output.source_port == (None if output.source == "keep" else 5353)
    # With both, answers keep theirs; what is told unasked comes from here.
    both = of(TWO, 'protocol = "mdns"', 'replies = "1s"', 'source = "keep"', 'ask = ["lan"]')
    (asks,), (tells,) = (both[f"home/mdns4:{came}"].outputs for came in ("lan", "iot"))
    assert (asks.source, asks.keeps_answerer, asks.source_port) == (None, True, 5353)
    assert (tells.source, tells.keeps_answerer, tells.replies) == (None, False, None)
    off = of(TWO, 'protocol = "knx"', "enabled = false", 'description = "Hall"')
    assert {(rule.enabled, rule.description) for rule in off.values()} == {(False, "Hall")}


def test_who_may_ask_and_who_may_answer() -> None:
    ssdp = (THREE, 'protocol = "ssdp"', 'family = "ipv4"')
    # Guests and lan ask iot; what iot says of itself goes to both.
    assert ways(of(*ssdp, 'answer = ["iot"]')) == {
        "lan": [("iot", 30)],
        "iot": [("lan", None), ("guest", None)],
        "guest": [("iot", 30)],
    }
    assert ways(of(*ssdp, 'ask = ["lan"]')) == {
        "lan": [("iot", 30), ("guest", 30)],
        "iot": [("lan", None)],
        "guest": [("lan", None)],
    }
    assert ways(of(*ssdp, "one_way = true")) == {"lan": [("iot", 30), ("guest", 30)]}
    assert ways(of(*ssdp, 'ask = ["guest"]', 'answer = ["lan"]', "one_way = true")) == {
        "guest": [("lan", 30)]
    }
    # Nobody tells these anything: only who asks is relayed.
    for protocol in ("llmnr", "coap", "wake-on-lan", "sacn"):
        rules = of(THREE, f'protocol = "{protocol}"', 'ask = ["guest"]', 'family = "ipv4"')
        assert set(ways(rules)) == {"guest"}, protocol


def test_patterns() -> None:
    rules = of('interfaces = ["lan", "br-*"]', 'protocol = "mdns"', 'family = "ipv4"')
    assert ways(rules) == {
        "lan": [("br-*", 10)],
        "br-*": [("lan", 10), ("br-*", 10)],
    }
    there = names.by_name(
        Link(
            *(name, index, True, True, 1500, 1, (IPv4Interface(f"10.{index}.0.1/24"),), ()),
            broadcasts=(IPv4Address(f"10.{index}.0.255"),),
        )
        for index, name in enumerate(("lan", "br-a", "br-b"), 2)
    )
    now = expand(Config(rules=rules), there)
    made = ["home/mdns4:br-*@br-a", "home/mdns4:br-*@br-b"]
    assert list(now.rules) == ["home/mdns4:lan", *made]
    assert ways({"a:a": now.rules[made[0]]}) == {"a": [("lan", 10), ("br-b", 10)]}
    assert names.doubles(now, there) == names.NONE
    assert called("home", now.rules) == ["home/mdns4:lan", *made]
    assert called("home/mdns4:br-*", now.rules) == made
    assert called("mdns4", now.rules) == []
    told = f"home is 3 rules; name one: {', '.join(now.rules)}"
    assert several("home", list(now.rules)) == told
    told = f"home/mdns4:br-* is a rule for each of 2 interfaces; name one: {', '.join(made)}"
    assert several("home/mdns4:br-*", made) == told
    (alone,) = of('interfaces = ["br-*"]', 'protocol = "knx"').values()
    assert alone.outputs[0].interface == "br-*"


def test_names_of_interfaces_that_are_no_names_of_rules() -> None:
    rules = of('interfaces = ["a@b", "a%40b", "Küche"]', 'protocol = "knx"')
    assert list(rules) == ["home/knx4:a%40b", "home/knx4:a%2540b", "home/knx4:K%C3%BCche"]
    assert [names.written(name) for name in rules] == list(rules)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (('protocol = "knx"',), "f:1:1: reflect.home.interfaces: missing; expected an array"),
        (("interfaces = []", 'protocol = "knx"'), "f:2:14: reflect.home.interfaces: expected at"),
        (
            ('interfaces = ["lan"]', 'protocol = "knx"'),
            "f:2:14: reflect.home.interfaces: expected two interfaces or more, or a pattern",
        ),
        (
            ('interfaces = ["lan", "iot", "lan"]', 'protocol = "knx"'),
            'f:2:29: reflect.home.interfaces[2]: "lan" is listed twice',
        ),
        (
            ('interfaces = ["lan", "a/b"]', 'protocol = "knx"'),
            "f:2:22: reflect.home.interfaces[1]: expected an interface name",
        ),
        (
            ('interfaces = [""]', 'protocol = "knx"'),
            "f:2:15: reflect.home.interfaces[0]: expected an interface name",
        ),
        ((TWO,), 'f:1:1: reflect.home.protocol: missing; expected one of "mdns", "llmnr", "ssdp"'),
        ((TWO, "port = 9"), "f:1:1: reflect.home.address: missing; without protocol, address"),
        ((TWO, 'address = "broadcast"'), "f:1:1: reflect.home.port: missing; without protocol"),
        (
            (TWO, 'address = "10.0.0.1"', "port = 9"),
            'f:3:11: reflect.home.address: expected a group or "broadcast", got 10.0.0.1',
        ),
        (
            (TWO, 'protocol = "knx"', "port = 9"),
            'f:4:8: reflect.home.port: "knx" has its own; leave out this or protocol',
        ),
        (
            (TWO, 'protocol = "knx"', 'family = "ipv6"'),
            "f:4:10: reflect.home.family: knx has no IPv6 address",
        ),
        (
            (TWO, 'address = "ff02::5"', "port = 9", 'family = "ipv4"'),
            "f:5:10: reflect.home.family: ff02::5 has no IPv4 address",
        ),
        (
            (TWO, 'protocol = "knx"', 'ask = ["lan", "wan"]'),
            'f:4:15: reflect.home.ask[1]: "wan" is not in interfaces',
        ),
        (
            (TWO, 'protocol = "knx"', 'ask = ["lan"]', 'answer = ["lan"]'),
            "f:4:7: reflect.home.ask: leaves no network that may ask another one",
        ),
        (
            (TWO, 'protocol = "knx"', "one_way = true", 'answer = ["lan"]'),
            "f:5:10: reflect.home.answer: leaves no network that may ask another one",
        ),
        ((TWO, 'protocol = "knx"', "ttl = 0"), "f:4:7: reflect.home.ttl: expected an integer"),
        (
            (TWO, 'protocol = "knx"', "xyzzy = 1"),
            "f:4:1: reflect.home.xyzzy: unknown key; known here: active_with, address, answer,",
        ),
        (
            (TWO, 'protocol = "knx"', "oneway = true"),
            'f:4:1: reflect.home.oneway: unknown key; did you mean "one_way"?',
        ),
    ],
)
def test_what_is_wrong_is_named_once_at_its_place(lines: tuple[str, ...], said: str) -> None:
    (line,) = problems(table(*lines))
    assert line.startswith(said), line


def test_a_clash_with_a_rule_is_reported_under_its_own_name() -> None:
    rule = textwrap.dedent("""\
        [rules.mdns]
        input = { interface = "iot", address = "224.0.0.251", port = 5353 }
        outputs = [{ interface = "lan", source_port = 5353, ttl = 255, replies = "10s" }]
        """)
    mine = table(TWO, 'protocol = "mdns"')
    said = "reflect.home.interfaces[1]: same input as rules.mdns (f:2:9)"
    assert problems(rule + mine) == [f"f:5:22: {said}"]
    said = "rules.mdns.input: same input as reflect.home (f:2:22)"
    assert problems(mine + rule) == [f"f:5:9: {said}"]
    parse(mine + rule.replace('"iot"', '"wan"'), "f")  # it may hear of one more network
    twice = problems(mine + table(TWO, 'protocol = "mdns"', name="work"))
    assert twice[0].startswith("f:5:15: reflect.work.interfaces[0]: same input as reflect.home")
    # Another network, another family or another protocol is no clash.
    parse(mine + table('interfaces = ["a", "b"]', 'protocol = "mdns"', name="work"), "f")
    parse(mine + table(TWO, 'protocol = "llmnr"', name="work"), "f")


def test_a_warning_comes_once_and_is_about_its_rules() -> None:
    config = parse(table(THREE, 'protocol = "mdns"', "ttl = 9"), "f")
    (line,) = config.warnings
    assert line.startswith("f:4:7: reflect.home.ttl: 9, but receivers of mDNS may ignore all but")
    assert is_about(line, "home/mdns4:lan")
    assert not is_about(line, "home")
    assert not is_about(line, "hom/mdns4:lan")
    more = "[interfaces.lan]\nworkers = 2\n"
    assert parse(more + table(TWO, 'protocol = "knx"'), "f").warnings == ()


def test_it_may_stand_in_a_file_that_is_included(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text(table(TWO, 'protocol = "knx"'))
    main = tmp_path / "mcr.toml"
    head = '[daemon]\ninclude = ["more.toml"]\n'
    main.write_text(head)
    assert list(load(main).rules) == ["home/knx4:lan", "home/knx4:iot"]
    main.write_text(head + table(TWO, 'protocol = "knx"'))
    with pytest.raises(ConfigError, match=r"reflect\.home: given twice; first at"):
        load(main)


def test_what_did_not_change_stays_the_same_objects() -> None:
    blocks = Blocks()
    text = table(THREE, 'protocol = "ssdp"')
    before = parse(text + table(TWO, 'protocol = "knx"', name="hall"), "f", blocks)
    after = parse("# moved\n" + text + table(THREE, 'protocol = "knx"', name="hall"), "f", blocks)
    assert after.rules["home/ssdp4:lan"] == before.rules["home/ssdp4:lan"]
    assert after.rules["home/ssdp4:lan"].place == Place("f", 2, 1)
    assert after.rules["home/ssdp4:lan"].outputs is before.rules["home/ssdp4:lan"].outputs
    told = changes(before, after).text
    assert told[0] == "+ rules.hall/knx4:guest"
    assert told[-1] == "= 9 unchanged"


INTERFACES = st.lists(st.sampled_from(["a", "b", "c", "d*", "e*"]), min_size=2, unique=True)


@given(
    st.data(),
    INTERFACES,
    st.sampled_from([*PROTOCOLS, None]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@settings(deadline=None)
def test_no_packet_goes_but_where_it_may(
    data: st.DataObject,
    interfaces: list[str],
    protocol: str | None,
    one_way: bool,
    with_ask: bool,
    with_answer: bool,
) -> None:
    some = st.lists(st.sampled_from(interfaces), min_size=1, unique=True)
    ask = data.draw(some) if with_ask else None
    answer = data.draw(some) if with_answer else None
    lines = [f"interfaces = {interfaces}".replace("'", '"'), f"one_way = {str(one_way).lower()}"]
    lines += [f'protocol = "{protocol}"'] if protocol else ['address = "239.1.1.1"', "port = 1"]
    lines += [] if protocol else ["ttl = 1"]
    lines += [f"ask = {ask}".replace("'", '"')] if ask else []
    lines += [f"answer = {answer}".replace("'", '"')] if answer else []
    askers = set(ask or (interfaces[:1] if one_way else interfaces))
    answerers = set(answer or interfaces)

    def may_ask(one: str, other: str) -> bool:
        return one in askers and other in answerers and (one != other or is_pattern(one))

    pairs = [(one, other) for one in interfaces for other in interfaces]
    asks = {pair for pair in pairs if may_ask(*pair)}
    if not asks:
        assert "leaves no network" in problems(table(*lines))[0]
        return
    tells = not one_way and (protocol is None or PROTOCOLS[protocol].tells)
    rules = of(*lines).values()
    sent = [(r.input.interface, o.interface, o.replies) for r in rules for o in r.outputs]
    assert {(one, other) for one, other, _ in sent} == asks | (
        {(other, one) for one, other in asks} if tells else set()
    )
    assert all((one, other) in asks for one, other, replies in sent if replies is not None)
