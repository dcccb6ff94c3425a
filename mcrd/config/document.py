"""One file or its text to a TOML document, with an index of its places."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import errno
import os
import pwd
import re
from typing import NoReturn

import tomli

from mcrd.config.positions import DEEPEST, Positions
from mcrd.config.problems import ConfigError, Problem, Report, key_text
from mcrd.config.syntax import slip
from mcrd.errors import passes, words
from mcrd.files import read_file
from mcrd.model import Place

_BYTE_ORDER_MARK = "\ufeff"
_GIVEN_TWICE = re.compile(r"Cannot declare |Cannot overwrite |Duplicate ")
_NAMES_A_KEY = re.compile(r"(Cannot [a-z ]+ )(\(.*\))( twice)?", re.DOTALL)


def read_text(file: str) -> bytes:
    """What is in a file. Raises ConfigError."""
    try:
        return read_file(file)
    except OSError as error:
        who = f" (as {_user()})" if error.errno == errno.EACCES else ""
        what = Problem(Place(file, 0, 0), "", f"cannot read: {words(error)}{who}", passes(error))
        raise ConfigError([what]) from None
    except ValueError as error:  # a NUL in the path
        _refuse(Place(file, 0, 0), f"cannot read: {error}")


def _user() -> str:
    try:
        return f"the user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"uid {os.geteuid()}"


def document_of(text: str, file: str, before: str = "") -> tuple[dict[str, object], Report]:
    """The tables in a text, and a report for what is wrong with them. Raises ConfigError.

    `before` is read in front of it; the places in an error are not right then.
    """
    return _tables(before + text, file), Report(file, text)


def characters(text: str | bytes, file: str) -> str:
    """The characters of a file, without a byte order mark. Raises ConfigError."""
    if isinstance(text, str):
        # A string of ours may hold half a surrogate pair, which no file can.
        text = text.encode(errors="surrogatepass")
    try:
        return text.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        before = text[: error.start].decode()
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        _refuse(Place(file, line, column), f"not UTF-8: byte 0x{text[error.start]:02x}")


def _tables(text: str, file: str) -> dict[str, object]:
    # Each level takes one of these.
    if sum(map(text.count, "[{.")) >= DEEPEST:
        positions = Positions(text)
        if positions.too_deep is not None:
            place = Place(file, *positions.at(positions.too_deep))
            _refuse(place, f"nested more than {DEEPEST} levels deep")
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        _refuse_syntax(error, file, Positions(text))
    except RecursionError:
        _refuse(Place(file, 0, 0), "nested too deeply")
    except ValueError as error:
        # Not a syntax error for tomli, which has no place for it.
        positions = Positions(text)
        for path in positions.overlong_integers():
            _refuse(Place(file, *positions.value(path)), "integer too long", key_text(path))
        _refuse(Place(file, 0, 0), f"cannot parse: {error}")


def _refuse_syntax(error: tomli.TOMLDecodeError, file: str, positions: Positions) -> NoReturn:
    twice = positions.duplicate
    if twice and twice.again <= error.pos and _GIVEN_TWICE.match(error.msg):
        # tomli points behind the second value, which may be many lines on.
        first = Place(file, *positions.at(twice.first))
        place = Place(file, *positions.at(twice.again))
        _refuse(place, f"given twice; first at {first}", key_text(twice.path))
    message = error.msg
    if found := _NAMES_A_KEY.fullmatch(message):  # as a tuple of Python
        message = found[1] + key_text(ast.literal_eval(found[2])) + (found[3] or "")

    def place_of(offset: int) -> str:
        return str(Place(file, *positions.at(offset)))

    what = slip(error.doc, error.pos, message, place_of)
    _refuse(Place(file, *positions.at(what.offset)), what.message)


def _refuse(place: Place, message: str, key: str = "") -> NoReturn:
    raise ConfigError([Problem(place, key, message)]) from None
