"""The files that a rule file includes."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterable, Iterator
from typing import Final

from mcrd.config.problems import Report, printable
from mcrd.config.walk import WRONG
from mcrd.errors import passes, words
from mcrd.files import absolute, read_file

BYTES_AT_MOST: Final = 64 << 20
"""Of all files that are included."""

FILES_AT_MOST: Final = 65536
"""Files that are included, of 1 KiB each: with a rule in each, to read them takes 19 s."""


def included(patterns: Iterable[str], report: Report) -> Iterator[tuple[str, bytes]]:
    """Name and text of every file that the patterns of a main file match, each once.

    What cannot be read, or is too much, is reported where its pattern stands.
    """
    directory = os.path.dirname(report.file)
    seen = {os.path.realpath(report.file)}
    size = 0
    for index, pattern in enumerate(patterns):
        if pattern is WRONG:
            continue
        path = ("daemon", "include", index)
        try:
            names = _matching(pattern, directory)
        except OSError as error:
            report.value(path, f"cannot read {error.filename}: {words(error)}", passes(error))
            continue
        for name in names:
            real = os.path.realpath(name)
            if real in seen:
                continue
            if len(seen) > FILES_AT_MOST:
                report.value(
                    path, f"more than {FILES_AT_MOST} files; the next is {printable(name)}"
                )
                return
            seen.add(real)
            try:
                if not name.isprintable():
                    raise OSError(errno.EINVAL, "the name has characters that cannot be printed")
                text = read_file(name)
            except OSError as error:
                why = f"cannot read {printable(name)}: {words(error)}"
                report.value(path, why, passes(error))
                continue
            size += len(text)
            if size > BYTES_AT_MOST:
                most = f"more than {BYTES_AT_MOST >> 20} MiB in all files"
                report.value(path, f"{most}; the first that is too much is {printable(name)}")
                return
            yield name, text


def absolute_patterns(patterns: Iterable[str], file: str) -> tuple[str, ...]:
    """The patterns of a main file, for use in any directory."""
    directory = glob.escape(os.path.dirname(absolute(file)))
    return tuple(os.path.join(directory, pattern) for pattern in patterns)


def _matching(pattern: str, directory: str) -> list[str]:
    if not glob.has_magic(pattern):
        return [os.path.join(directory, pattern)]
    # glob() finds nothing in a directory that it may not read.
    readable = os.path.dirname(pattern)
    while glob.has_magic(readable):
        readable = os.path.dirname(readable)
    try:
        os.scandir(os.path.join(directory, readable) or ".").close()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))
