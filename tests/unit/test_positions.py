"""Every key path of a document is found, at its line and column."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcrd.config.positions import DEEPEST, Duplicate, KeyPath, Positions

if TYPE_CHECKING:
    from collections.abc import Iterator

# A busy machine is no failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Spot = tuple[int, int]


def paths_of(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every path of a parsed document."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_of(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths_of(item, (*path, index))


EXAMPLE = textwrap.dedent(
    '''\
    # [comment]
    top = 1
    "quoted key" . 'lite#ral' . "\\u0061\\"b" = "x # no ] comment"  # [a]

    [ a . "b.c" ]   # a is implicit
    plain = { x = 1, y.z = [ {}, { q = "}" } ] }
    many = [
        "]", # ]
        \'\'\'
    [not.a.table]
    k = 1\'\'\'\',
        """ "" \\""" ] """"", [[1], 2,],
        1979-05-27 07:32:00, -inf,
    ]
    [[a.list]]
    "é" = [ "é", 5 ]
    [[a.list]]
    [a.list.sub]
    "ü"."é" = 1
    [a]
    last=[ 1,2 ]'''
)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ((), (1, 1), (1, 1)),
        (("top",), (2, 1), (2, 7)),
        (("quoted key",), (3, 1), (3, 1)),
        (("quoted key", "lite#ral"), (3, 16), (3, 16)),
        (("quoted key", "lite#ral", 'a"b'), (3, 29), (3, 43)),
        (("a",), (5, 3), (20, 1)),
        (("a", "b.c"), (5, 7), (5, 1)),
        (("a", "b.c", "plain"), (6, 1), (6, 9)),
        (("a", "b.c", "plain", "x"), (6, 11), (6, 15)),
        (("a", "b.c", "plain", "y"), (6, 18), (6, 18)),
        (("a", "b.c", "plain", "y", "z"), (6, 20), (6, 24)),
        (("a", "b.c", "plain", "y", "z", 0), (6, 26), (6, 26)),
        (("a", "b.c", "plain", "y", "z", 1, "q"), (6, 32), (6, 36)),
        (("a", "b.c", "many", 0), (8, 5), (8, 5)),
        (("a", "b.c", "many", 1), (9, 5), (9, 5)),
        (("a", "b.c", "many", 2), (12, 5), (12, 5)),
        (("a", "b.c", "many", 3), (12, 26), (12, 26)),
        (("a", "b.c", "many", 3, 0, 0), (12, 28), (12, 28)),
        (("a", "b.c", "many", 4), (13, 5), (13, 5)),
        (("a", "b.c", "many", 5), (13, 26), (13, 26)),
        (("a", "list"), (15, 5), (15, 1)),
        (("a", "list", 0), (15, 1), (15, 1)),
        (("a", "list", 0, "é"), (16, 1), (16, 7)),
        (("a", "list", 0, "é", 1), (16, 14), (16, 14)),
        (("a", "list", 1), (17, 1), (17, 1)),
        (("a", "list", 1, "sub"), (18, 9), (18, 1)),
        (("a", "list", 1, "sub", "ü", "é"), (19, 5), (19, 11)),
        (("a", "last", 1), (21, 10), (21, 10)),
    ],
)
def test_example(path: KeyPath, key: Spot, value: Spot, line_end: str) -> None:
    text = EXAMPLE.replace("\n", line_end)
    assert path in list(paths_of(tomli.loads(text)))
    positions = Positions(text)
    assert positions.has(path)
    assert (positions.key(path), positions.value(path)) == (key, value)


def test_what_is_not_there_stands_where_the_nearest_table_stands() -> None:
    positions = Positions("\n[a]\nb = 1\n")
    assert not positions.has(("a", "c"))
    assert positions.value(("a", "c", 0)) == (2, 1)
    assert positions.key(("x",)) == (1, 1)
    # What has the name of a later part, but is not below the earlier one, is another thing.
    assert positions.value(("a", "c", "b")) == (2, 1)


@pytest.mark.parametrize(
    ("text", "path", "first", "again"),
    [
        ("[a.b]\n[a.b]", ("a", "b"), (1, 4), (2, 4)),
        ("a = 1\nb = 2\na = 3", ("a",), (1, 1), (3, 1)),
        ("a = { b = 1, b = 2 }", ("a", "b"), (1, 7), (1, 14)),
        ("a = 1\n[[a]]", ("a",), (1, 1), (2, 3)),
        ("[[a]]\n[a]\nx = 1\n[a.b]", ("a",), (1, 3), (2, 2)),
    ],
)
def test_a_key_given_twice(text: str, path: KeyPath, first: Spot, again: Spot) -> None:
    positions = Positions(text)
    assert isinstance(positions.duplicate, Duplicate)
    assert positions.duplicate.path == path
    assert positions.at(positions.duplicate.first) == first
    assert positions.at(positions.duplicate.again) == again


def test_tables_opened_later_and_items_of_arrays_of_tables_are_not_given_twice() -> None:
    assert Positions("[a.b]\n[a]\n[[c]]\nx = 1\n[[c]]\nx = 1\n").duplicate is None


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 10_000, "a = " + "{x=" * 10_000, "[" + ".".join("a" * 10_000) + "]"]
)
def test_the_index_ends_where_nesting_is_too_deep(text: str) -> None:
    assert Positions(text).too_deep is not None


def test_deepest_nesting() -> None:
    at_limit = "a = " + "[" * (DEEPEST - 1) + "0" + "]" * (DEEPEST - 1)
    assert Positions(at_limit).too_deep is None
    assert Positions(at_limit.replace("0", "[0]")).too_deep == 4 + DEEPEST


def test_overlong_integers() -> None:
    text = "a = '{0}'\n# {0}\n[b]\nc = [1, -{0}]\n".format("1" * 4301)
    assert list(Positions(text).overlong_integers()) == [("b", "c", 1)]


# Generated documents: written in every style that TOML has, noting where each thing was put.


@dataclass
class Written:
    """A text in the making. `expected`: path -> place of its key and of its value."""

    text: str = ""
    expected: dict[KeyPath, tuple[Spot, Spot]] = field(default_factory=dict)

    def here(self) -> Spot:
        return self.text.count("\n") + 1, len(self.text) - self.text.rfind("\n")

    def put(self, text: str) -> Spot:
        here = self.here()
        self.text += text
        return here


STRINGS = (
    '"plain"',
    '"\\"]} # \\\\"',
    "'a \\ \" # ]'",
    "''",
    '""',
    '"""a "" ] # \\""" \n[x]\n k = 1 \\\n  """""',
    "'''a '' } \\ \n[[y]]'''''",
    '""""""',
    '"äöü 漢字 😀 \\u00e4"',
)
SCALARS = (
    *STRINGS,
    *("1", "-0", "+1_000", "0xFF", "1.5e-3", "inf", "-nan", "true", "false"),
    *("1979-05-27T07:32:00Z", "1979-05-27 07:32:00.5", "1979-05-27", "07:32:00"),
)
NAMES = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("abz09_-.#[]{}=\"'\\ "), max_size=5
)
BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Any:  # noqa: ANN401, RUF100
    """A scalar (as TOML text), an array (list) or a table (dict)."""
    kind = draw(st.sampled_from(["scalar", "scalar", "list", "dict"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(st.sampled_from(SCALARS))
    if kind == "list":
        return draw(st.lists(trees(depth - 1), max_size=3))
    return draw(st.dictionaries(NAMES, trees(depth - 1), max_size=3))


def write_name(draw: st.DrawFn, out: Written, name: str) -> Spot:
    styles = ['"' + "".join(f"\\U{ord(char):08X}" for char in name) + '"']
    if name and BARE.issuperset(name):
        styles.append(name)
    if name.isprintable():
        if "'" not in name:
            styles.append(f"'{name}'")
        styles.append('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return out.put(draw(st.sampled_from(styles)))


def blank(draw: st.DrawFn, out: Written) -> None:
    out.put(draw(st.sampled_from(["", " ", "\t "])))


def gap(draw: st.DrawFn, out: Written) -> None:
    out.put(draw(st.sampled_from(["", " ", "\n", " # ] } [a]\n\t", "\n\n  "])))


def write_value(draw: st.DrawFn, out: Written, tree: Any, path: KeyPath) -> Spot:
    if isinstance(tree, str):
        return out.put(tree)
    if isinstance(tree, list):
        start = out.put("[")
        for index, item in enumerate(tree):
            gap(draw, out)
            spot = write_value(draw, out, item, (*path, index))
            out.expected[(*path, index)] = (spot, spot)
            gap(draw, out)
            if index < len(tree) - 1 or draw(st.booleans()):
                out.put(",")
        gap(draw, out)
        out.put("]")
        return start
    start = out.put("{")
    for index, (name, item) in enumerate(tree.items()):
        if index:
            out.put(",")
        blank(draw, out)
        write_assignment(draw, out, name, item, path)
        blank(draw, out)
    out.put("}")
    return start


def write_assignment(draw: st.DrawFn, out: Written, name: str, tree: Any, path: KeyPath) -> None:
    key = write_name(draw, out, name)
    here = (*path, name)
    blank(draw, out)
    if isinstance(tree, dict) and len(tree) == 1 and draw(st.booleans()):
        # A table of one key, as a dotted key.
        out.expected[here] = (key, key)
        out.put(".")
        blank(draw, out)
        [(only, item)] = tree.items()
        write_assignment(draw, out, only, item, here)
        return
    out.put("=")
    blank(draw, out)
    value = write_value(draw, out, tree, here)
    out.expected[here] = (key, value)


def write_header(draw: st.DrawFn, out: Written, path: KeyPath, brackets: int) -> tuple[Spot, Spot]:
    blank(draw, out)
    start = out.put("[" * brackets)
    blank(draw, out)
    names = [part for part in path if isinstance(part, str)]
    for index, name in enumerate(names):
        if index:
            out.put(".")
            blank(draw, out)
        key = write_name(draw, out, name)
        blank(draw, out)
    out.put("]" * brackets)
    write_line_end(draw, out)
    return key, start


def write_line_end(draw: st.DrawFn, out: Written) -> None:
    out.put(draw(st.sampled_from(["\n", " # [no] = {table}\n", "\n\n"])))


def write_table(draw: st.DrawFn, out: Written, table: dict[str, Any], path: KeyPath) -> None:
    later: list[tuple[str, Any]] = []
    for name, tree in table.items():
        with_header = isinstance(tree, dict) or (
            isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree)
        )
        if with_header and draw(st.booleans()):
            later.append((name, tree))
            continue
        blank(draw, out)
        write_assignment(draw, out, name, tree, path)
        write_line_end(draw, out)
    for name, tree in later:
        here = (*path, name)
        if isinstance(tree, dict):
            out.expected[here] = write_header(draw, out, here, 1)
            write_table(draw, out, tree, here)
            continue
        for index, item in enumerate(tree):
            key, start = write_header(draw, out, here, 2)
            out.expected.setdefault(here, (key, start))
            out.expected[(*here, index)] = (start, start)
            write_table(draw, out, item, (*here, index))


@st.composite
def documents(draw: st.DrawFn) -> Written:
    out = Written()
    write_table(draw, out, draw(st.dictionaries(NAMES, trees(), max_size=4)), ())
    return out


@unhurried
@given(documents(), st.sampled_from(["\n", "\r\n"]))
def test_every_key_of_a_generated_document(document: Written, line_end: str) -> None:
    text = document.text.replace("\n", line_end)
    paths = list(paths_of(tomli.loads(text)))
    assert set(paths) == {(), *document.expected}
    positions = Positions(text)
    assert positions.duplicate is None
    for path in paths[1:]:
        assert positions.has(path)
        assert (positions.key(path), positions.value(path)) == document.expected[path]


@unhurried
@given(documents(), st.data())
def test_a_broken_document_never_raises(document: Written, data: st.DataObject) -> None:
    text = document.text
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 5)))
        text = text[:start] + data.draw(st.text("[]{}=.,\"'#\n \\a1", max_size=4)) + text[end:]
    positions = Positions(text)
    try:
        accepted = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    assert all(positions.has(path) for path in paths_of(accepted))


@unhurried
@given(st.text() | st.text("[]{}=.,\"'#\n \\ab1"))
def test_any_text_never_raises(text: str) -> None:
    positions = Positions(text)
    positions.key(("a",))
    list(positions.overlong_integers())
    try:
        accepted = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    assert all(positions.has(path) for path in paths_of(accepted))
