"""What is wrong in a rule file, and where."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from mcrd.config.positions import KeyPath, Positions
from mcrd.model import Place

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_QUOTE = 60
_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `key` is empty where there is none, as in a syntax error.

    Line 0 in `place` means the file as a whole. `passing` is what the host could not give now.
    """

    place: Place
    key: str
    message: str
    passing: bool = False

    def __str__(self) -> str:
        where = str(self.place) if self.place.line else self.place.file
        return ": ".join(part for part in (where, self.key, self.message) if part)


class ConfigError(Exception):
    """Rule files that cannot be used. `problems` has all, in the order of files and places."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    @property
    def passing(self) -> bool:
        """Whether the files may be right, and could not be read now."""
        return any(problem.passing for problem in self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Report:
    """Collects the problems of a file or a part of it, and knows where its keys stand.

    `lines_before` is how many lines of the file come before the part.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines_before = 0
        self.problems: list[Problem] = []  # their places are within the part
        self._text = text

    @cached_property
    def _positions(self) -> Positions:
        """Made when somebody asks: most parts are as they should be."""
        return Positions(self._text)

    def place(self, path: KeyPath) -> Place:
        """The place of the value (a table's header, if it has one) at a path."""
        return self._in_the_file(*self._positions.value(path))

    def key_place(self, path: KeyPath) -> Place:
        """The place of the key at the end of a path."""
        return self._in_the_file(*self._positions.key(path))

    def value(self, path: KeyPath, message: str, passing: bool = False) -> None:
        """The value at the path is wrong; or `passing`, what it names could not be had now."""
        self._add(self._positions.value(path), path, message, passing)

    def key(self, path: KeyPath, message: str) -> None:
        """The key at the end of the path is wrong, whatever its value."""
        self._add(self._positions.key(path), path, message)

    def absent(self, path: KeyPath, message: str) -> None:
        """The key at the end of the path is not there: the place is the table that lacks it."""
        self._add(self._positions.value(path[:-1]), path, message)

    def in_order(self) -> list[Problem]:
        """The problems, sorted by line and column."""
        ordered = sorted(self.problems, key=lambda found: (found.place.line, found.place.column))
        return [
            replace(found, place=self._in_the_file(found.place.line, found.place.column))
            for found in ordered
        ]

    def _add(
        self, where: tuple[int, int], path: KeyPath, message: str, passing: bool = False
    ) -> None:
        found = Problem(Place(self.file, *where), key_text(path), message, passing)
        if found not in self.problems:  # the rules of one table may all have it
            self.problems.append(found)

    def _in_the_file(self, line: int, column: int) -> Place:
        return Place(self.file, line + self.lines_before, column)


def key_text(path: KeyPath) -> str:
    """A path as TOML writes it: `rules."a b".outputs[0].ttl`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else quoted(part)
            text += f".{name}" if text else name
    return text


def path_of(rule: str) -> KeyPath:
    """The table that says a rule: [rules.NAME], or [reflect.NAME] if its name has a slash."""
    name, made, _ = rule.partition("/")
    return ("reflect", name) if made else ("rules", rule)


def is_about(line: str, rule: str) -> bool:
    """Whether a problem or warning, as a line, is about this rule."""
    key = f" {key_text(path_of(rule))}"
    at = line.find(key)
    return at >= 0 and line[at + len(key) :][:1] in (".", ":", "[")


def quoted(text: str) -> str:
    """A string in quotes, shortened, with nothing in it that a terminal would obey."""
    short = text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 3] + "..."
    return '"' + printable(short, '"\\') + '"'


def printable(text: str, escaped: str = "") -> str:
    """A string with nothing in it that a terminal would obey."""
    return "".join("\\" + char if char in escaped else _escaped(char) for char in text)


def described(value: object) -> str:
    """A value of a TOML document, in the words for the user."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # str() refuses more than 4300 digits.
        if abs(value) >= 10**_MOST_DIGITS:
            return f"an integer of more than {_MOST_DIGITS} digits"
        return str(value)
    if isinstance(value, float):
        return f"the floating-point number {value}"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "an array"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (dt.date, dt.time)):
        return f"the date or time {value}"
    return f"a value of type {type(value).__name__}"


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    return f"\\u{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08X}"
