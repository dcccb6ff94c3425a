"""Networks that many tests and the demo share.

Triangle: the relay stands between two networks that know nothing of each other.

    +--------+ s0          r0 +-------+ r1          k0 +------+
    | source |----------------| relay |----------------| sink |
    +--------+ .1          .2 +-------+ .1          .2 +------+
               10.1.0.0/24              10.2.0.0/24
               fd01::/64                fd02::/64

Fork: the same with a second sink.

                                              r1          k0 +-------+
                                            .----------------| sink  |
    +--------+ s0          r0 +-------+ .1 /             .2  +-------+
    | source |----------------| relay |---<   10.2.0.0/24, fd02::/64
    +--------+ .1          .2 +-------+ .1 \\ r2          k1 +-------+
               10.1.0.0/24                  '----------------| sink2 |
               fd01::/64                                 .2  +-------+
                                              10.3.0.0/24, fd03::/64
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab.network import cut

if TYPE_CHECKING:
    from tests.lab.network import Host, Lab


@dataclass(frozen=True)
class Triangle:
    """source (s0) -- (r0) relay (r1) -- (k0) sink."""

    lab: Lab
    source: Host
    relay: Host
    sink: Host


@dataclass(frozen=True)
class Fork(Triangle):
    """A triangle with relay (r2) -- (k1) sink2."""

    sink2: Host


def build_triangle(lab: Lab) -> Triangle:
    """Makes the hosts and cables of a triangle."""
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(
        *(source, "s0", ["10.1.0.1/24", "fd01::1/64"]),
        *(relay, "r0", ["10.1.0.2/24", "fd01::2/64"]),
    )
    lab.link(
        *(relay, "r1", ["10.2.0.1/24", "fd02::1/64"]),
        *(sink, "k0", ["10.2.0.2/24", "fd02::2/64"]),
    )
    cut(relay, "r1")
    return Triangle(lab, source, relay, sink)


def build_fork(lab: Lab) -> Fork:
    """Makes the hosts and cables of a fork."""
    base = build_triangle(lab)
    (sink2,) = lab.hosts("sink2")
    lab.link(
        *(base.relay, "r2", ["10.3.0.1/24", "fd03::1/64"]),
        *(sink2, "k1", ["10.3.0.2/24", "fd03::2/64"]),
    )
    cut(base.relay, "r2")
    return Fork(lab, base.source, base.relay, base.sink, sink2)
