"""Keeps what was heard last, and no more than there is room for."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def remember(entries: dict[Key, Value], key: Key, value: Value, most: int) -> bool:
    """Put it last; return whether the oldest was forgotten for it."""
    entries.pop(key, None)
    entries[key] = value
    if len(entries) <= most:
        return False
    del entries[next(iter(entries))]
    return True
