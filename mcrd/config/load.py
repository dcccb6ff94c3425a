"""From a file or its text to a Config: read, parse, hold against the schema, check."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec.inspect

from mcrd.config.build import build
from mcrd.config.checks import check
from mcrd.config.document import document_of, read_text
from mcrd.config.include import absolute_patterns, included
from mcrd.config.problems import ConfigError
from mcrd.config.rules import Document
from mcrd.config.schema import OF_THE_MAIN_FILE, File, Included
from mcrd.config.walk import read
from mcrd.config.warnings import warn

if TYPE_CHECKING:
    from mcrd.model import Config

_MAIN_FILE = msgspec.inspect.type_info(File)
_INCLUDED_FILE = msgspec.inspect.type_info(Included)


def load(path: str | os.PathLike[str]) -> Config:
    """The Config in a file and those it includes. Raises ConfigError, also for one unreadable."""
    file = os.fspath(path)
    return parse(read_text(file), file)


def parse(text: str | bytes, file: str) -> Config:
    """The Config in a text, and in the files it includes. Raises ConfigError.

    `file` is the name for the text in messages; what is included is relative to its directory.
    """
    root, report = document_of(text, file)
    main = Document(report, read(_MAIN_FILE, root, (), report))
    patterns = main.fields.get("daemon", {}).get("include", [])
    documents = [main]
    names = [file]
    unreadable: dict[str, ConfigError] = {}
    for name, included_text in included(patterns, report):
        names.append(name)
        try:
            documents.append(_included(included_text, name, file))
        except ConfigError as error:
            unreadable[name] = error

    check(documents)
    problems = {each.report.file: each.report.in_order() for each in documents}
    problems |= {name: list(error.problems) for name, error in unreadable.items()}
    if any(problems.values()):
        raise ConfigError(problem for name in names for problem in problems[name])
    warn(documents)
    return build(
        documents,
        warnings=tuple(str(found) for each in documents for found in each.report.in_order()),
        files=tuple(map(os.path.abspath, names)),
        include_patterns=absolute_patterns(patterns, file),
    )


def _included(text: bytes, file: str, main_file: str) -> Document:
    root, report = document_of(text, file)
    for name in OF_THE_MAIN_FILE:
        if root.pop(name, None) is not None:
            report.key((name,), f"only in the main file, {main_file}")
    return Document(report, read(_INCLUDED_FILE, root, (), report))
