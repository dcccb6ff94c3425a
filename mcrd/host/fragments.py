"""The kernel's counts of fragments, of the whole network namespace and for all receivers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
from pathlib import Path

_SNMP, _SNMP6 = Path("/proc/thread-self/net/snmp"), Path("/proc/thread-self/net/snmp6")


def lost() -> dict[str, int]:
    """Sets of fragments that never became a packet (RFC 4293, ipReasmFails, ipv6IfStatsReasmFails).

    No frame of such a set of IPv4 reaches a ring; those of IPv6 do. A name is missing where the
    kernel has no such counter.
    """
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        names, values = (
            line.split() for line in _SNMP.read_text().splitlines() if line.startswith("Ip:")
        )
        found["ipv4_fragments_lost"] = int(values[names.index("ReasmFails")])
    with contextlib.suppress(OSError, ValueError, KeyError):
        counts = dict(line.split() for line in _SNMP6.read_text().splitlines())
        found["ipv6_fragments_lost"] = int(counts["Ip6ReasmFails"])
    return found
