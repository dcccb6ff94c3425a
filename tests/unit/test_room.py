"""How much a rule file may have: as much is read, and one more is an error where it stands."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from mcrd.dataplane._dataplane import lib

from mcrd import files
from mcrd.config import ConfigError, include, load, parse
from mcrd.config.outputs import (
    CHOOSING_AT_MOST,
    LISTED_AT_MOST,
    OUTPUTS_AT_MOST,
    SOURCES_AT_MOST,
)
from mcrd.dataplane import messages
from mcrd.lanes.orders import match_of
from mcrd.model import OUTPUTS_AT_MOST as OUTPUTS_OF_A_WORKER
from mcrd.model import RULES_AT_MOST, Input
from mcrd.planning.relays import Relay
from tests.lab.rules import rule

if TYPE_CHECKING:
    from pathlib import Path

ENDS = "r1 10.0.0.{} {}"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return str(caught.value).splitlines()


def lines(text: str) -> int:
    return text.count("\n")


def test_what_a_segment_has_room_for() -> None:
    assert lib.MCRD_RULE_SLOTS == RULES_AT_MOST
    assert lib.MCRD_OUTPUT_SLOTS == OUTPUTS_OF_A_WORKER


def of(number: int, interface: str = "r0", more: str = "") -> str:
    address = f"239.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return rule(f"n{number}", f"{interface} {address} 5000", "r1 10.0.0.1 6000", more=more)


def test_rules_of_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.config.room.RULES_AT_MOST", 40)
    text = "".join(of(number) for number in range(1, 41))
    idle = of(41, more="enabled = false") + of(42, "r2")
    assert len(parse(text + idle, "f").rules) == 42
    # Those after it say nothing more.
    assert problems(text + "".join(of(40 + more) for more in (1, 2, 3))) == [
        f"f:{lines(text) + 2}:9: rules.n41.input: more than 40 of the rules with their"
        " input on r0, and a worker has room for no more: one with a range takes many addresses"
    ]


def test_rules_of_interfaces_that_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.config.room.RULES_AT_MOST", 4)
    legs = 'input = { interface = "r0", address = "239.9.9.9", port = 5000 }'
    two = f"inputs = [{legs[8:]}, {legs[8:].replace('r0', 'r2')}]"
    merged = rule("both", "r0 239.9.9.9 5000", "r1 10.0.0.1 6000").replace(legs, two)
    text = merged + of(1) + of(2, "r2")
    assert len(parse(text + of(3, "r3"), "f").rules) == 4
    (problem,) = problems(text + of(3))
    assert problem.startswith(f"f:{lines(text) + 2}:9: rules.n3.input: more than 4 of the rules")


def many(number: int, count: int, more: str = "") -> str:
    outputs = (f"r1 10.{at >> 8}.{at & 255}.1 6000{more}" for at in range(count))
    return rule(f"n{number}", f"r0 239.1.1.{number} 5000", *outputs)


def test_outputs_of_a_rule() -> None:
    (one,) = parse(many(1, OUTPUTS_AT_MOST), "f").rules.values()
    assert len(one.outputs) == OUTPUTS_AT_MOST
    assert problems(many(1, OUTPUTS_AT_MOST + 2)) == [
        "f:7172:5: rules.n1.outputs[7168]: more than 7168 outputs of one rule"
    ]


def test_outputs_of_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcrd.config.room.OUTPUTS_AT_MOST", 20)
    text = many(1, 10) + many(2, 5, ' replies="10s"')
    assert len(parse(text, "f").rules) == 2
    assert problems(text + many(3, 1)) == [
        f"f:{lines(text) + 3}:11: rules.n3.outputs: more than 20 outputs of the rules with their"
        " input on r0, and a worker has room for no more; with replies, one counts twice"
    ]


def listing(key: str, count: int) -> str:
    listed = ", ".join(f'"10.{at >> 8}.{at & 255}.0/24"' for at in range(count))
    return f"port = 5000, {key} = [{listed}]"


def test_sources_of_an_input() -> None:
    text = rule("a", "r0 239.1.1.1 5000", "r1 10.0.0.1 6000")
    most = SOURCES_AT_MOST
    (one,) = parse(text.replace("port = 5000", listing("sources", most)), "f").rules.values()
    assert len(one.input.sources) == SOURCES_AT_MOST
    for key in ("sources", "exclude"):
        too_many = text.replace("port = 5000", listing(key, most + 1))
        column = too_many.splitlines()[1].index(f"{key} = ") + len(f"{key} = ") + 1
        assert problems(too_many) == [
            f"f:2:{column}: rules.a.input.{key}: more than 4096 sources of one input,"
            " excluded ones included"
        ]


def test_as_much_as_one_rule_may_have_fits_a_message() -> None:
    """Each of them does, alone, of IPv6 and with the largest numbers."""
    high = IPv6Address(2**128 - 1).packed
    outputs = [messages.RuleOutput(65535, 65535, 10**8)] * OUTPUTS_AT_MOST
    outputs[:CHOOSING_AT_MOST] = [
        messages.RuleOutput(65535, 65535, 10**8, 10**6)
    ] * CHOOSING_AT_MOST
    given = Input("r0", ip_address("ff15::1"), 5000)
    kept: list[int | None] = [OUTPUTS_AT_MOST] * OUTPUTS_AT_MOST
    match = match_of(Relay(given, (), ()))
    whole = messages.encode(messages.ReplaceRule(2**32, 16383, match, outputs, kept))
    assert len(whole) < messages.LARGEST
    run = messages.SourceRun(high, high)
    choosing = messages.RuleOutput(65535, 65535, 10**8, 10**6, [run] * (LISTED_AT_MOST + 1))
    whole = messages.encode(messages.AddRule(2**32, 16383, match, [choosing]))
    assert len(whole) < messages.LARGEST
    network = ip_network("ff00::/128")
    listing = Input("r0", ip_address("ff15::1"), 5000, sources=(network,) * SOURCES_AT_MOST)
    match = match_of(Relay(listing, (), ()))
    whole = messages.encode(messages.AddRule(2**32, 16383, match, outputs[:1]))
    assert len(whole) < messages.LARGEST


def test_a_file_of_the_largest_size_and_one_byte_more(tmp_path: Path) -> None:
    file = tmp_path / "f"
    text = of(1) + "#"
    file.write_text(text + "x" * (files.LARGEST - len(text) - 1) + "\n")
    assert len(load(file).rules) == 1
    with file.open("a") as end:
        end.write("\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: cannot read: larger than 16 MiB"
    assert not caught.value.passing
    os.truncate(file, 1 << 40)  # sparse: nobody reads it
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        load(file)


def test_a_long_line() -> None:
    """An error behind it has its place."""
    text = '[rules.a]\ndescription = "{}"; oops\n'
    long = text.format("x" * 1_000_000)
    assert problems(long) == ['f:2:1000017: nothing separates lines in TOML; leave out ";"']


def test_included_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, directory = tmp_path / "f", tmp_path / "d"
    directory.mkdir()
    main.write_text(f'[daemon]\ninclude = ["{directory}/*"]\n')
    monkeypatch.setattr(include, "FILES_AT_MOST", 3)
    for number in range(3):
        (directory / f"{number}.toml").write_text(of(number))
    assert len(load(main).rules) == 3
    (directory / "3.toml").write_text(of(3))
    with pytest.raises(ConfigError) as caught:
        load(main)
    more = f"more than 3 files; the next is {directory}/3.toml"
    assert str(caught.value) == f"{main}:2:12: daemon.include[0]: {more}"
    monkeypatch.setattr(include, "FILES_AT_MOST", 4)
    assert len(load(main).rules) == 4
    size = sum(file.stat().st_size for file in directory.iterdir())
    monkeypatch.setattr(include, "BYTES_AT_MOST", size)
    assert len(load(main).rules) == 4
    monkeypatch.setattr(include, "BYTES_AT_MOST", size - 1)
    with pytest.raises(ConfigError) as caught:
        load(main)
    more = f"more than 0 MiB in all files; the first that is too much is {directory}/3.toml"
    assert str(caught.value) == f"{main}:2:12: daemon.include[0]: {more}"
