"""A file that is read in blocks, and only what changed of it, says what it says when read whole."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcrd.config import Blocks, ConfigError, load, parse
from mcrd.config.document import document_of


def plain(name: str, number: int, more: str = "") -> str:
    return (
        f"[rules.{name}]\n"
        f'input = {{ interface = "r0", address = "239.1.1.{number}", port = 5000 }}\n'
        f'outputs = [ {{ interface = "r1", address = "239.2.2.{number}", port = 6000{more} }} ]\n\n'
    )


INPUT = 'input = { interface = "r0", address = "239.1.1.9", port = 5000 }\n'
OUTPUTS = 'outputs = [ { interface = "r1", address = "239.2.2.9" } ]\n'
HEADS = [
    "",
    "\n# nothing but a remark\n",
    '[daemon]\nlog_level = "debug"\n',
    "[interfaces.r0]\nworkers = 2\n",
    "[interfaces.r7]\n",
    "[rules]\n",
    f"rules.dotted = {{ {INPUT.strip()}, {OUTPUTS.strip()} }}\n",
    "[daemon]\nlog_level = 7\n",
    'x = """\n[rules.within]\n"""\n',
    "\ufeff[daemon]\nwatch = false\n",
]
RULES = [
    *(plain(name, number) for name in ("a", "b", "c") for number in (1, 2)),
    plain("a", 1, ", ttl = 8"),
    plain("d", 3, ", ttl = 8").replace("\n", "\r\n"),
    plain('"quoted name"', 4, ", ttl = 1"),
    plain("'single'", 5, ", source_port = 4000"),
    plain("e", 5, ', source = "10.0.0.1", source_port = 4000'),
    plain("off", 1).replace("\n\n", "\nenabled = false\n\n"),
    f'[rules.sub]\n{OUTPUTS}[rules.sub.input]\ninterface = "r0"\naddress = "239.1.1.9"\nport = 1\n',
    f'[rules.table.input]\ninterface = "r0"\naddress = "239.1.1.8"\nport = 1\n'
    f"[rules.table]\n{OUTPUTS}",
    f"[rules.array]\n{INPUT}[[rules.array.outputs]]\n"
    'interface = "r1"\naddress = "239.2.2.8"\nttl = 3\n',
    f'[rules.text]\n{INPUT}{OUTPUTS}description = """\n[rules.a]\n"""\n',
    f"[rules.text]\n{INPUT}{OUTPUTS}description = '''\n[rules.b]\n'''\n",
    f"[rules.lines]\n{INPUT}outputs = [\n# [rules.no]\n"
    '  { interface = "r1", address = "239.2.2.7" },\n]\n',
    "[rules.range]\n"
    'input = { interface = "r0", address = "239.1.1.0/30", port = 5000 }\n'
    'outputs = [ { interface = "r1", address = "239.7.7.0/30", ttl = 2 } ]\n',
    "[rules.fed]\n"
    'input = { interface = "r1", address = "239.2.2.1", port = 6000 }\n'
    'outputs = [ { interface = "r2", address = "239.8.8.8", ttl = 2 } ]\n',
    "[ rules . spaced ] # remark\n" + INPUT + OUTPUTS,
    "[interfaces.r1]\n",
    "[daemon]\nwatch = true\n",
    "[rules.bad]\n" + INPUT,
    "[rules.worse]\noutputs = [\n",
    "[rules.a.input]\n",
    "[rules]\n",
    'description = "of the rule before"\n',
    "junk\n",
    plain("k", 6, ', source = "keep", source_port = 1'),
    *(plain(f"more-{number}", 20 + number) for number in range(12)),
    "[interfaces.r2]\nworkers = 3\ncpus = [1, 1]\n",
    "[interfaces]\n",
    "[ interfaces . r3 ]\nworkers = 2\n",
    '[reflect.a]\ninterfaces = ["r0", "r1"]\nprotocol = "mdns"\n\n',
    '[reflect.a]\ninterfaces = ["r1", "r2", "r0"]\nprotocol = "mdns"\nttl = 1\n',
    '[reflect.b]\ninterfaces = ["r0", "r1"]\naddress = "239.1.1.1"\nport = 5000\n',
    '[reflect.c]\ninterfaces = ["r0", "r0"]\nask = ["r1"]\n',
    "[reflect]\n",
]
PARTS = st.lists(st.sampled_from(RULES), max_size=6) | st.lists(
    st.sampled_from(RULES), max_size=6, unique_by=lambda text: text.partition("]")[0]
)
TEXTS = st.builds(lambda head, parts: head + "".join(parts), st.sampled_from(HEADS), PARTS)


@contextmanager
def read_whole() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "documents", lambda *_: None)
        yield


def outcome(blocks: Blocks, text: str) -> Any:
    """The Config with what does not count in its comparison, or what is wrong."""
    try:
        config = parse(text, "mcr.toml", blocks)
    except ConfigError as error:
        return error.problems
    return config, config.warnings, [(rule, rule.place) for rule in config.rules.values()]


@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_one_text_after_the_other(texts: list[str]) -> None:
    blocks = Blocks()
    for text in texts:
        with read_whole():
            whole = outcome(Blocks(), text)
        assert outcome(blocks, text) == whole


@given(PARTS, PARTS, st.sampled_from(RULES), st.sampled_from(RULES))
@example([plain("a", 1), "[rules]\n"], [plain("b", 2), "[rules]\n"], RULES[-1], RULES[-2])
@example([plain("a", 1)], [plain("b", 2)], '[daemon]\nlog_level = "debug"\n', RULES[-1])
@example([], [plain("b", 2)], plain("k", 6, ', source = "keep", source_port = 1'), RULES[-1])
def test_one_rule_among_others_changes(
    before: list[str], after: list[str], old: str, new: str
) -> None:
    blocks = Blocks()
    for rule in (old, new, old):
        text = "".join([*before, rule, *after])
        with read_whole():
            whole = outcome(Blocks(), text)
        assert outcome(blocks, text) == whole


def test_only_what_changed_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Blocks()
    rules = [plain(f"rule-{number}", number) for number in range(1, 200)]
    parse("".join(rules), "mcr.toml", blocks)
    read: list[str] = []

    def noted(text: str, file: str, before: str = "") -> Any:
        read.append(text)
        return document_of(text, file, before)

    monkeypatch.setattr("mcrd.config.blocks.document_of", noted)
    rules[50] = plain("rule-51", 51, ", ttl = 7")
    config = parse("# moved by a line\n" + "".join(rules), "mcr.toml", blocks)
    assert read == ["# moved by a line\n", rules[50]]
    place = config.rules["rule-199"].place
    assert place is not None
    assert place.line == 1 + 198 * 4 + 1


def test_files_that_include_others_are_read_in_blocks(tmp_path: Path) -> None:
    main, other = tmp_path / "mcr.toml", tmp_path / "other.toml"
    main.write_text('[daemon]\ninclude = ["other.toml"]\n' + plain("a", 1))
    blocks = Blocks()
    for number in (2, 3, 2):
        other.write_text(plain("b", number) + plain("c", 4))
        config = load(main, blocks)
        assert list(config.rules) == ["a", "b", "c"]
        assert str(config.rules["b"].input.address) == f"239.1.1.{number}"
    other.write_text(plain("a", 7))
    with pytest.raises(ConfigError) as raised:
        load(main, blocks)
    (problem,) = raised.value.problems
    assert str(problem) == f"{other}:1:8: rules.a: given twice; first at {main}:3:8"


def test_a_byte_order_mark_and_lines_of_windows() -> None:
    text = ("\ufeff" + plain("a", 1) + plain("b", 2)).replace("\n", "\r\n")
    assert list(parse(text, "mcr.toml").rules) == ["a", "b"]
