"""A file in blocks, one for each rule: what has not changed since the last time is not read again.

With thousands of rules, reading is most of a reload, and mostly only few of them have changed. A
file is cut before each header [rules.NAME], [reflect.NAME] and [interfaces.NAME]. A block that is
TOML by itself begins and ends between two statements; so all of them one after the other say what
the whole file says, as long as no table stands in two of them. Whatever is not as simple as that
is read whole.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec.inspect as mi

from mcrd.config.document import document_of
from mcrd.config.problems import ConfigError
from mcrd.config.rules import Document
from mcrd.config.walk import read

_TABLES = ("rules", "reflect", "interfaces")
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"\\\n]*"|'[^'\n]*')"""
_HEADER = re.compile(rf"^\[[ \t]*({'|'.join(_TABLES)})[ \t]*\.[ \t]*{_NAME}[ \t]*\]", re.MULTILINE)


class Blocks:
    """The blocks of all files, as they were read last."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Document] = {}
        self._refused: dict[tuple[str, str], Document] = {}  # of files that were not taken
        self._used: dict[tuple[str, str], Document] = {}

    def documents(self, text: str, file: str, kind: mi.Type) -> list[Document] | None:
        """What comes before the first block, and each; None when the file has to be read whole."""
        (_, _, top), *parts = _cut(text)
        head = _read(top, file, kind)
        if head is None or not parts or not head[1].isdisjoint(_TABLES):
            return None
        documents = [head[0]]
        for line, table, part in parts:
            document = self._known.get((file, part)) or self._refused.get((file, part))
            if document is None:
                # A table may be declared once: with this, a block that does so is no TOML.
                found = _read(part, file, kind, f"[{table}]\n")
                if found is None or found[1] != {table}:
                    return None
                document = found[0]
                document.begins_with_its_rule = len(document.fields["rules"]) == 1
            self._used[file, part] = document
            document.move(line)
            documents.append(document)
        for table in _TABLES:
            names = [name for document in documents for name in document.fields[table]]
            if len(set(names)) < len(names):
                return None
        return documents

    def forget(self) -> None:
        """Forget the blocks that have not been in any file since the last time."""
        self._known, self._refused, self._used = self._used, {}, {}

    def remember(self) -> None:
        """Not all was read: what was known stays so, beside what was read this time."""
        self._refused = self._used
        self._used = {}


def _cut(text: str) -> Iterator[tuple[int, str, str]]:
    """How many lines come before each block, the table that it is of, and the block."""
    start, line, table = 0, 0, ""
    for header in _HEADER.finditer(text):
        part = text[start : header.start()]
        yield line, table, part
        start, line, table = header.start(), line + part.count("\n"), header[1]
    yield line, table, text[start:]


def _read(
    text: str, file: str, kind: mi.Type, before: str = ""
) -> tuple[Document, set[str]] | None:
    """A block without problems, and its top-level keys, when it is read after `before`."""
    try:
        root, report = document_of(text, file, before)
    except ConfigError:
        return None
    keys = set(root)
    document = Document(report, read(kind, root, (), report))
    return None if report.problems else (document, keys)
