"""Memory that workers share with the supervisor, or with each other."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator

from mcrd.dataplane._dataplane import ffi, lib
from mcrd.errors import words

# linux/fcntl.h
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEALS = 1 | 2 | 4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


def sealed(name: str, size: int) -> int:
    """A descriptor of memory of so many bytes, all zero; raises OSError."""
    with (
        _of(name),
        _or_close(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)) as descriptor,
    ):
        os.ftruncate(descriptor, size)
        # A worker could else shrink it, and every later look at it would be a SIGBUS.
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
        return descriptor


def mapped(name: str, size: int) -> tuple[int, mmap.mmap]:
    """As sealed(), and the memory itself; raises OSError."""
    with _of(name), _or_close(sealed(name, size)) as descriptor:
        return descriptor, mmap.mmap(descriptor, size)


@contextlib.contextmanager
def _or_close(descriptor: int) -> Iterator[int]:
    """A new descriptor, which is closed when what is to be done with it fails."""
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


@contextlib.contextmanager
def _of(name: str) -> Iterator[None]:
    """An error says what for the memory is."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"shared memory, {name}: {words(error)}") from None


def is_sealed(descriptor: int, size: int) -> bool:
    """Whether this is memory of that size, which nobody can shrink. Raises OSError."""
    return (
        os.fstat(descriptor).st_size == size
        and fcntl.fcntl(descriptor, _F_GET_SEALS) & _SEALS == _SEALS
    )


def guard_memory() -> int:
    """A descriptor of the memory of relayed contents that all workers share; raises OSError.

    It begins with the seed of the hash: nobody outside can choose contents that hash alike.
    """
    name = "mcrd-guard"
    with _of(name), _or_close(sealed(name, ffi.sizeof("struct guard_memory"))) as descriptor:
        os.pwrite(descriptor, os.urandom(8 * int(lib.MCRD_GUARD_SEEDS)), 0)
        return descriptor
