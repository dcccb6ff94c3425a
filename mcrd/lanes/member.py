"""A member of a range, or a source that is kept, as long as it has sockets."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from mcrd.dataplane.messages import MemberKey
from mcrd.planning.resources import Egress

# Seconds without a packet after which a member ends. Longer than those who announce themselves
# are silent: SAP up to 400 s (RFC 2974, 3.1), UPnP up to 900 s (Device Architecture 2.0, 1.2.2).
ENDS_AFTER = 1200.0

Sockets = dict[Egress, socket.socket]


@dataclass(slots=True)
class Member:
    """The member of a rule. `slot` is where the segment says when it was used last."""

    rule: str
    slot: int
    sockets: Sockets
    used: int = 0  # what Segment.last_used() said,
    since: float = 0.0  # and since when it says so: seconds, monotonic
    ends_after: float = ENDS_AFTER
    outputs: Sequence[Egress] = ()

    def is_idle(self, used: int, now: float) -> bool:
        """Whether it ends, as Segment.last_used() says `used` now: seconds, monotonic."""
        if used != self.used:
            self.used, self.since = used, now
        return now - self.since >= self.ends_after


def take_some(keys: dict[MemberKey, None], most: int) -> list[MemberKey]:
    """The first of these, which are not among them any more."""
    some = list(islice(keys, most))
    for key in some:
        del keys[key]
    return some
