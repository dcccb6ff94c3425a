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


class Loader:
    """Reads rule files again and again, and of them only what has changed."""

    def __init__(self) -> None:
        self._blocks = Blocks()

    def load(self, path: str | os.PathLike[str]) -> Config:
        """See the function of this name."""
        file = os.fspath(path)
        return self.parse(read_text(file), file)

    def parse(self, text: str | bytes, file: str) -> Config:
        """See the function of this name."""
        try:
            found = self._parse(text, file)
        except ConfigError:
            self._blocks.remember()
            raise
        self._blocks.forget()
        return found

    def _parse(self, text: str | bytes, file: str) -> Config:
        documents = self._documents(text, file, _MAIN_FILE)
        main = documents[0]
        patterns = main.fields.get("daemon", {}).get("include", [])
        names = [file]
        unreadable: dict[str, ConfigError] = {}
        for name, included_text in included(patterns, main.report):
            names.append(name)
            try:
                documents += self._documents(included_text, name, _INCLUDED_FILE, file)
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
        self, text: str | bytes, file: str, kind: mi.Type, main_file: str | None = None
    ) -> list[Document]:
        """What a file says: in blocks where it can be, the one with the daemon's settings first."""
        text = characters(text, file)
        if (blocks := self._blocks.documents(text, file, kind)) is not None:
            return blocks
        root, report = document_of(text, file)
        for name in OF_THE_MAIN_FILE if main_file is not None else ():
            if root.pop(name, None) is not None:
                report.key((name,), f"only in the main file, {main_file}")
        return [Document(report, read(kind, root, (), report))]


def load(path: str | os.PathLike[str]) -> Config:
    """The Config in a file and those it includes. Raises ConfigError, also for one unreadable."""
    return Loader().load(path)


def parse(text: str | bytes, file: str) -> Config:
    """The Config in a text, and in the files it includes. Raises ConfigError.

    `file` is the name for the text in messages; what is included is relative to its directory.
    """
    return Loader().parse(text, file)
