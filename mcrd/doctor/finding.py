"""What a check has found."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "trouble", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer. `value` is what was found, `why` what it matters for.

    `remedy` is what an administrator types or writes into the unit; of what is ok, it is what
    could be better still.
    """

    check: str
    verdict: Verdict
    value: str
    why: str = ""
    remedy: str = ""


def in_unit(line: str) -> str:
    """The remedy that sets something of the service."""
    return f"systemctl edit mcrd, under [Service]: {line}; then systemctl restart mcrd"


def setting(name: str, value: int) -> str:
    """The line that sets a sysctl; names with slashes are for interfaces with a dot."""
    return f"sysctl -w {shlex.quote(name)}={value}"


def unreadable(check: str, name: str, reason: str, why: str = "") -> Finding:
    """A file or sysctl that this process may not look at, or that is not there."""
    return Finding(check, "unknown", f"cannot read {name}: {reason}", why)
