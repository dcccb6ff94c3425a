"""What is wrong where a text is no TOML, in the words of who wrote it.

tomli says what it would have expected next, which is seldom what is wrong: it takes `05000` for the
integer 0, and what follows for the end of a table that never comes.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from mcrd.config.positions import STRING
from mcrd.config.problems import quoted

_TOKEN: Final = re.compile(rf"{STRING.pattern}|#[^\n]*|[\[\]{{}}\n]", re.DOTALL)
_PIECE: Final = re.compile(rf"{STRING.pattern}|#[^\n]*|[^\"'#]+", re.DOTALL)
_WORD: Final = re.compile(r"[^\s,\[\]{}#=\"']+")
_HEADER: Final = re.compile(r"[ \t]*\[\[?[^\[\]{}=,\n]+\]\]?[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_ZEROS: Final = re.compile(r"([+-]?)0+_?([0-9][0-9_]*)")
_RANGE: Final = re.compile(r"([0-9]+)[-:]([0-9]+)")
_AMOUNT: Final = re.compile(r"[0-9][0-9.]*[ \t]*(?:%|(?:ms|s|min|h|[KMG]?i?B)\b)")
_WORDS: Final = {
    **dict.fromkeys(("true", "yes", "on", "enable", "enabled"), "true"),
    **dict.fromkeys(("false", "no", "off", "disable", "disabled"), "false"),
}
_NOTHING: Final = ("none", "null", "nil", "undefined")
_CURLY: Final = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb`\u00b4"
_IMMUTABLE: Final = "Cannot mutate immutable namespace "
_CLOSED: Final = "an array in [ ] and a table in { } are complete where they end"
_PLAIN_KEY: Final = 'letters A to Z and a to z, digits, "_" and "-"'


class Slip(NamedTuple):
    """What is wrong, and the offset where."""

    offset: int
    message: str


class _Around(NamedTuple):
    """The text around the offset at which tomli stopped."""

    text: str
    offset: int
    opened: tuple[int, ...]  # the brackets that are open there, of arrays and inline tables
    statement: int  # where the statement begins that it is in
    place: Callable[[int], str]  # of an offset, for a message
    message: str  # tomli's

    @property
    def char(self) -> str:
        return self.text[self.offset : self.offset + 1]

    @property
    def got(self) -> str:
        """What stands at the offset, for a message."""
        found = _WORD.match(self.text, self.offset)
        return quoted(found[0] if found else self.char)


def slip(text: str, offset: int, message: str, place: Callable[[int], str]) -> Slip:
    """What is wrong in a text that tomli refused at this offset with this message.

    `place` says where an offset is. Line ends are single, as in tomli's offsets.
    """
    if message.startswith(_IMMUTABLE):
        _, statement = _brackets(text, offset)
        key = message.removeprefix(_IMMUTABLE)
        return Slip(statement, f"nothing can be added to {key} here: {_CLOSED}")
    if found := _of_strings(text, offset, message):
        return found
    around = _Around(text, offset, *_brackets(text, offset), place, message)
    for look in (_of_headers, _of_values, _of_brackets, _of_keys, _of_ends):
        if what := look(around):
            return Slip(offset, what) if isinstance(what, str) else what
    return Slip(offset, message[:1].lower() + message[1:])


def _brackets(text: str, end: int) -> tuple[tuple[int, ...], int]:
    """Which brackets are open at an offset, and where its statement begins."""
    opened: list[int] = []
    statement = 0
    for token in _TOKEN.finditer(text, 0, end):
        match token[0]:
            case "[" | "{":
                opened.append(token.start())
            case "]" | "}":
                del opened[-1:]
            case "\n" if not opened:
                statement = token.end()
    while text[statement : statement + 1] in (" ", "\t"):
        statement += 1
    return tuple(opened), statement


def _of_strings(text: str, offset: int, message: str) -> Slip | None:
    if message.startswith("Unescaped"):
        start = text.rfind("\\", 0, offset)
        instead = "for a backslash write two, or put the string into single quotes"
        return Slip(start, f"{quoted(text[start : start + 2])} is no escape; {instead}")
    if offset < len(text) and not message.endswith(r"'\n'"):
        return None
    end = 0
    while end < offset and (token := _PIECE.match(text, end)):
        if token.end() > offset or token[0] == text[end] * 2 == text[end + 1 : end + 3]:
            break
        end = token.end()
    if end >= offset or text[end] not in "\"'":
        return None
    mark = text[end] * (3 if text.startswith(text[end] * 3, end) else 1)
    where = " before the end of the line" if len(mark) == 1 else ""
    return Slip(end, f"the string is not closed: {mark} is missing{where}")


def _of_values(around: _Around) -> Slip | None:
    """A value that is none, or that tomli read only the beginning of."""
    text = around.text
    line = text.rfind("\n", 0, around.offset) + 1
    # Backwards: a search for what reaches up to the offset tries each character of a long word.
    before = _WORD.match(text[line : around.offset][::-1])
    start = around.offset - (before.end() if before else 0)
    lead = text[:start].rstrip(" \t\n")
    wants_value = lead.endswith("=") or (
        lead.endswith(("[", ",")) and bool(around.opened) and text[around.opened[-1]] == "["
    )
    if not wants_value or (around.opened and _is_header(around)):
        return _with_unit(around)
    found = _WORD.match(text, start)
    if found is None:
        if text.startswith("=", start):
            return Slip(start, 'one "=" stands between key and value, got a second one')
        return Slip(start, "a value is missing") if _is_end(text, start) else None
    if lead.endswith("=") and found[0] in (">", "=>"):
        return Slip(start, '"=" stands between key and value, got "=>"')
    # Of a number with a blank, tomli took all before the blank.
    amount = _AMOUNT.match(text, start)
    if (amount or found).end() <= around.offset:  # all of it is a value: what follows is wrong
        return None
    words = _as_value(amount[0] if amount else found[0])
    return Slip(start, words) if words else None


def _with_unit(around: _Around) -> Slip | None:
    """What stands behind a number: `32 MiB`."""
    line = around.text.rfind("\n", 0, around.offset) + 1
    found = re.search(r"[=,\[][ \t]*([0-9][0-9.]*)[ \t]*\Z", around.text[line : around.offset])
    if found is None:
        return None
    start = line + found.start(1)
    amount = _AMOUNT.match(around.text, start)
    if amount is None or amount.end() <= around.offset:
        return None
    return Slip(start, _in_quotes("a value with a unit", amount[0]))


def _as_value(word: str) -> str | None:
    """What is wrong with a value that stands without quotes."""
    if zeros := _ZEROS.fullmatch(word):
        plain = zeros[2].lstrip("0_") or "0"
        sign = zeros[1].replace("+", "")
        return f"a number has no leading zeros in TOML, got {quoted(word)}; write {sign}{plain}"
    if word.strip(_CURLY) != word:
        return f"""a string stands in straight quotes, " or ', got {quoted(word)}"""
    if word.lower() in _WORDS:
        return f"expected true or false, got {quoted(word)}; write {_WORDS[word.lower()]}"
    if word.lower() in _NOTHING:
        return f"TOML has no {quoted(word)}; leave the key out"
    if ends := _RANGE.fullmatch(word):
        return _in_quotes("a range", f"{ends[1]}-{ends[2]}")
    if _is_address(word):
        return _in_quotes("an address", word)
    if _AMOUNT.fullmatch(word):
        return _in_quotes("a value with a unit", word)
    if re.fullmatch(r"[+-]?(\.[0-9]+|[0-9]+\.)", word):
        return f"a number has digits before and after its point, got {quoted(word)}"
    if re.fullmatch(r"[+-]?[0-9_]+", word):
        return f'in a number "_" stands between two digits, got {quoted(word)}'
    if re.fullmatch(r"[A-Za-z][^/;:<>|&()]*", word):
        return _in_quotes("a string", word)
    return None


def _in_quotes(what: str, word: str) -> str:
    return f"{what} needs quotes; write {quoted(word)}"


def _is_address(word: str) -> bool:
    for reads in (ip_address, lambda text: ip_network(text, strict=False)):
        try:
            reads(word)
        except ValueError:
            continue
        return True
    host, colon, port = word.rpartition(":")
    return bool(colon) and port.isdecimal() and host != word and _is_address(host.strip("[]"))


def _of_brackets(around: _Around) -> str | None:
    """Something in an array or inline table that is neither a value, "," nor the end."""
    if not around.opened:
        return None
    header = _is_header(around)
    line = around.text.rfind("\n", 0, around.offset) + 1
    start = next(at for at in reversed(around.opened) if not header or at < line)
    what, end = ("array", "]") if around.text[start] == "[" else ("table", "}")
    begins = f"the {what} that begins at {around.place(start)}"
    if around.char == "," and around.message.startswith("Invalid"):
        return 'there is nothing before this ","'
    if not around.char or header:
        return f'{begins} is not closed: "{end}" is missing'
    if around.message.startswith("Unclosed"):
        if around.char in "]}":
            return f'{begins} ends with "{end}", got {around.got}'
        return f'expected "," or "{end}" in {begins}, got {around.got}'
    return None


def _of_keys(around: _Around) -> str | None:
    if not around.message.startswith("Expected '='"):
        return None
    if around.char == ":":
        return 'expected "=" between key and value, got ":"'
    if _is_end(around.text, around.offset):
        return 'expected "=" and a value behind the key'
    return (
        f'expected "=" behind the key, got {around.got};'
        f" a key with anything but {_PLAIN_KEY} stands in quotes"
    )


def _of_headers(around: _Around) -> str | None:
    if not around.message.startswith(("Expected ']", 'Expected "]')):
        return None
    marks = "]]" if "]]" in around.message else "]"
    if _is_end(around.text, around.offset):
        return f'expected "{marks}" at the end of the name of a table'
    return (
        f'expected "{marks}" or ".", got {around.got};'
        f" a name with anything but {_PLAIN_KEY} stands in quotes"
    )


def _of_ends(around: _Around) -> str | None:
    if around.char == ";" or around.text.startswith(("//", "/*"), around.offset):
        if around.message.startswith("Invalid statement") or around.char == "/":
            return 'a comment begins with "#" in TOML'
        return 'nothing separates lines in TOML; leave out ";"'
    if around.message.startswith("Invalid statement"):
        return f"expected a key or the name of a table in [ ], got {around.got}"
    if not around.message.startswith("Expected newline"):
        return None
    if around.char == ",":
        if re.compile(r"(?<=[0-9]),[0-9]").match(around.text, around.offset):
            return 'a number has a point in TOML, got ","'
        return 'nothing separates lines in TOML; leave out ","'
    return f"expected the end of the line, got {around.got}"


def _is_end(text: str, offset: int) -> bool:
    """Whether nothing follows in the line."""
    return re.compile(r"[ \t]*(?:#|\n|\Z)").match(text, offset) is not None


def _is_header(around: _Around) -> bool:
    """Whether the line looks like the name of the next table: then the brackets were to end before.

    As in outputs = [{ ... } and the next line [rules.b].
    """
    line = around.text.rfind("\n", 0, around.offset) + 1
    return around.opened[0] < line and _HEADER.match(around.text, line) is not None
