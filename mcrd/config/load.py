"""From a file or its text to a Config: read, parse, hold against the schema, check."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import msgspec.inspect as mi

from mcrd.config.blocks import Blocks
from mcrd.config.build import build
from mcrd.config.checks import check
from mcrd.config.document import characters, document_of, read_text
from mcrd.config.include import absolute_patterns, included
from mcrd.config.problems import ConfigError, Problem
from mcrd.config.rules import Document
from mcrd.config.schema import OF_THE_MAIN_FILE, File, Included
from mcrd.config.walk import read
from mcrd.config.warnings import warn
from mcrd.files import absolute
from mcrd.model import Config

_MAIN_FILE = mi.type_info(File)
_INCLUDED_FILE = mi.type_info(Included)


def load(path: str | os.PathLike[str], blocks: Blocks | None = None) -> Config:
    """The Config in a file and those it includes. Raises ConfigError, also for one unreadable.

    With the same `blocks` as before, only what has changed is read again.
    """
    file = os.fspath(path)
    return parse(read_text(file), file, blocks)


def parse(text: str | bytes, file: str, blocks: Blocks | None = None) -> Config:
    """The Config in a text, and in the files it includes. Raises ConfigError.

    `file` is the name for the text in messages; what is included is relative to its directory.
    """
    blocks = blocks or Blocks()
    try:
        found = _parse(text, file, blocks)
    except ConfigError:
        blocks.remember()
        raise
    blocks.forget()
    return found


def _parse(text: str | bytes, file: str, blocks: Blocks) -> Config:
    documents = _documents(text, file, blocks, _MAIN_FILE)
    main = documents[0]
    patterns = main.fields.get("daemon", {}).get("include", [])
    names = [file]
    unreadable: dict[str, ConfigError] = {}
    for name, included_text in included(patterns, main.report):
        names.append(name)
        try:
            documents += _documents(included_text, name, blocks, _INCLUDED_FILE, file)
        except ConfigError as error:
            unreadable[name] = error

    check(documents)
    problems: dict[str, list[Problem]] = {name: [] for name in names}
    for each in documents:
        problems[each.report.file] += each.report.in_order()
    problems |= {name: list(error.problems) for name, error in unreadable.items()}
    if any(problems.values()):
        raise ConfigError(problem for name in names for problem in problems[name])
    warn(documents)
    return build(
        documents,
        warnings=tuple(str(found) for each in documents for found in each.report.in_order()),
        files=tuple(str(absolute(name)) for name in names),
        include_patterns=absolute_patterns(patterns, file),
    )


def _documents(
    text: str | bytes, file: str, blocks: Blocks, kind: mi.Type, main_file: str | None = None
) -> list[Document]:
    """What a file says: in blocks where it can be, the one with the daemon's settings first."""
    text = characters(text, file)
    if (found := blocks.documents(text, file, kind)) is not None:
        return found
    root, report = document_of(text, file)
    for name in OF_THE_MAIN_FILE if main_file is not None else ():
        if root.pop(name, None) is not None:
            report.key((name,), f"only in the main file, {main_file}")
    return [Document(report, read(kind, root, (), report))]
