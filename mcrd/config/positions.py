"""Where every key and value of a TOML text stands. tomli tells that for syntax errors only.

This reads the structure and no more, and is more lenient than tomli: whatever tomli reads before
it accepts or refuses a text, this has read too. Only what tomli accepted may be relied on.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

import tomli

KeyPath = tuple[str | int, ...]

# Parsers recurse: tomli raises RecursionError, and some of its builds crash. No rule file needs
# more than five levels.
DEEPEST: Final = 100

# Without possessive quantifiers: Python 3.11.2 gets them wrong around groups.
STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_PLAIN_VALUE = re.compile(r"[^,\[\]{}#\n\"']+")
_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\n,]|#[^\n]*)*")
_OVERLONG_INTEGER = re.compile(r"[+-]?[0-9_]{4300}")  # int() refuses more digits than that


class Duplicate(NamedTuple):
    """A key that is given again: its path, and the offsets of both."""

    path: KeyPath
    first: int
    again: int


class _LostError(Exception):
    """The text is no TOML from here on."""


class _Node:
    """A key, or an item of an array, and what is in it. Offsets count characters from 0."""

    __slots__ = ("children", "declared", "depth", "key_at", "last", "name", "parent", "value_at")

    def __init__(self, parent: _Node | None, name: str | int, offset: int) -> None:
        self.parent = parent
        self.name = name
        self.key_at = offset
        self.value_at = offset
        self.depth: int = parent.depth + 1 if parent else 0
        self.declared = False  # by a header or a value of its own, not just on the way to others
        self.last: _Node | None = None  # the last item of an array that [[headers]] made
        self.children: dict[str | int, _Node] = {}

    def path(self) -> KeyPath:
        parts: list[str | int] = []
        node = self
        while node.parent:
            parts.append(node.name)
            node = node.parent
        return tuple(reversed(parts))


class Positions:
    """An index of a text: key path -> (line, column), both from 1, columns in characters.

    A path that the text does not have stands where the nearest table around it stands.
    `duplicate` is the first key given twice, `too_deep` the offset of what is nested deeper
    than `DEEPEST`, where the index ends. Never raises, whatever the text.
    """

    def __init__(self, text: str) -> None:
        # As tomli does, so that its offsets are ours.
        self._text = text.replace("\r\n", "\n")
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", self._text))]
        self._root = _Node(None, "", 0)
        self.duplicate: Duplicate | None = None
        self.too_deep: int | None = None
        with contextlib.suppress(_LostError):  # a syntax error needs only what is known so far
            self._document()

    def key(self, path: KeyPath) -> tuple[int, int]:
        """Where the key stands."""
        return self.at(self._nearest(path).key_at)

    def value(self, path: KeyPath) -> tuple[int, int]:
        """Where the value stands: for a table its header, or its key where it has no header."""
        return self.at(self._nearest(path).value_at)

    def has(self, path: KeyPath) -> bool:
        """Whether the text has this path."""
        return self._nearest(path).depth == len(path)

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset."""
        line = bisect_right(self._line_starts, offset)
        return line, offset - self._line_starts[line - 1] + 1

    def overlong_integers(self) -> Iterator[KeyPath]:
        """Paths of the integers with so many digits that Python refuses to read them."""
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            nodes.extend(reversed(node.children.values()))
            if not node.children and _OVERLONG_INTEGER.match(self._text, node.value_at):
                yield node.path()

    def _nearest(self, path: KeyPath) -> _Node:
        node = self._root
        for part in path:
            child = node.children.get(part)
            if child is None:
                break
            node = child
        return node

    def _document(self) -> None:
        table = self._root
        offset = self._after(_GAP, 0)
        while offset < len(self._text):
            if self._text.startswith("[", offset):
                table, offset = self._header(offset)
            else:
                node, offset = self._assignment(table, offset)
                offset = self._value(node, offset)
            offset = self._after(_GAP, offset)

    def _header(self, start: int) -> tuple[_Node, int]:
        brackets = 2 if self._text.startswith("[[", start) else 1
        parts, offset = self._key(self._after(_BLANK, start + brackets))
        parent = self._descend(self._root, parts[:-1])
        name, at = parts[-1]
        node = parent.children.get(name) or self._child(parent, name, at)
        if not node.declared:
            node.value_at = start
        elif brackets == 1 or not node.last:
            self._given_twice(node, at)
        node.declared = True
        if brackets == 2:
            index = node.last.name + 1 if node.last and isinstance(node.last.name, int) else 0
            node.last = self._child(node, index, start)
            node = node.last
        return node, self._expect("]" * brackets, offset)

    def _assignment(self, table: _Node, start: int) -> tuple[_Node, int]:
        parts, offset = self._key(start)
        parent = self._descend(table, parts[:-1])
        name, at = parts[-1]
        if name in parent.children:
            self._given_twice(parent.children[name], at)
        node = self._child(parent, name, at)
        return node, self._after(_BLANK, self._expect("=", offset))

    def _value(self, node: _Node, offset: int) -> int:
        # A stack, not recursion: the depth is the text's to choose.
        opened: list[_Node] = []
        while True:
            node.value_at = offset
            node.declared = True
            if self._text.startswith(("[", "{"), offset):
                opened.append(node)
                offset += 1
            else:
                offset = self._scalar(offset)
            while opened:
                offset = self._after(_GAP, offset)
                if not self._text.startswith(("]", "}"), offset):
                    break
                opened.pop()
                offset += 1
            if not opened:
                return offset
            holder = opened[-1]
            if self._text[holder.value_at] == "[":
                node = self._child(holder, len(holder.children), offset)
            else:
                node, offset = self._assignment(holder, offset)

    def _scalar(self, offset: int) -> int:
        found = STRING.match(self._text, offset) or _PLAIN_VALUE.match(self._text, offset)
        if found is None:
            raise _LostError
        return found.end()

    def _key(self, offset: int) -> tuple[list[tuple[str, int]], int]:
        parts: list[tuple[str, int]] = []
        while True:
            found = _KEY_PART.match(self._text, offset)
            if found is None:
                raise _LostError
            parts.append((_plain(found[0]), offset))
            offset = self._after(_BLANK, found.end())
            if not self._text.startswith(".", offset):
                return parts, offset
            offset = self._after(_BLANK, offset + 1)

    def _descend(self, node: _Node, parts: list[tuple[str, int]]) -> _Node:
        for name, at in parts:
            node = node.children.get(name) or self._child(node, name, at)
            node = node.last or node
        return node

    def _child(self, parent: _Node, name: str | int, offset: int) -> _Node:
        node = _Node(parent, name, offset)
        if node.depth > DEEPEST:
            self.too_deep = offset
            raise _LostError
        parent.children[name] = node
        return node

    def _given_twice(self, node: _Node, again: int) -> None:
        if self.duplicate is None:
            self.duplicate = Duplicate(node.path(), node.key_at, again)

    def _after(self, pattern: re.Pattern[str], offset: int) -> int:
        found = pattern.match(self._text, offset)
        return found.end() if found else offset

    def _expect(self, mark: str, offset: int) -> int:
        if not self._text.startswith(mark, offset):
            raise _LostError
        return offset + len(mark)


def _plain(part: str) -> str:
    """A part of a key without its quotes and escapes."""
    if part[0] == "'":
        return part[1:-1]
    if part[0] != '"':
        return part
    if "\\" not in part:
        return part[1:-1]
    try:
        return str(tomli.loads(f"key = {part}")["key"])
    except tomli.TOMLDecodeError:
        raise _LostError from None
