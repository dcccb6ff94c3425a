"""What could not be done, why, and when it is tried again."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from mcrd.errors import named
from mcrd.lanes.recovery import STALE, backoff
from mcrd.planning.actual import Failure
from mcrd.planning.relays import RelayKey
from mcrd.planning.resources import Egress, Ingress, Members, Membership, Querying, Resource, Worker

What = Resource | RelayKey


class Failures(dict[What, Failure]):
    """The failures, by what failed."""

    def __init__(self) -> None:
        super().__init__()
        self._looked_at = 0.0

    def add(self, what: What, reason: str) -> None:
        """Note a failure; the wait grows with each of them."""
        before = self.get(what)
        attempts = before.attempts + 1 if before else 1
        self[what] = Failure(reason, time.monotonic() + backoff(attempts), attempts)

    def now(self, now: float, *, to_plan: bool) -> dict[What, Failure]:
        """The failures that there are. `to_plan`: what is due is tried again after this look."""
        if to_plan:
            self._looked_at = now
        for what in [what for what, failure in self.items() if failure.retry_at <= now - STALE]:
            del self[what]
        return dict(self)

    def next_retry(self) -> float | None:
        """Seconds until something that failed is to be tried again.

        What was due at the last look has been tried, or nobody wants it any more.
        """
        times = [f.retry_at for f in self.values() if f.retry_at > self._looked_at]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def retry_now(self, interfaces: Iterable[str] | None = None) -> None:
        """End the wait of what failed on these interfaces, or of all."""
        names = None if interfaces is None else set(interfaces)
        self._retry(lambda what: names is None or _interface(what) in names)

    def retry_outputs_now(self, interfaces: Iterable[str]) -> None:
        """End the wait of outputs that failed on these interfaces, and of nothing else."""
        names = set(interfaces)
        self._retry(lambda what: isinstance(what, Egress | Members) and what.interface in names)

    def _retry(self, concerns: Callable[[What], bool]) -> None:
        now = time.monotonic()
        for what, failure in self.items():
            if failure.retry_at > now and concerns(what):
                self[what] = replace(failure, retry_at=now)


def _interface(what: What) -> str:
    match what:
        case RelayKey():
            return what.worker.ingress.interface
        case Worker():
            return what.ingress.interface
        case _:
            return what.interface


def explain(error: OSError, resource: Resource) -> str:
    """Why something could not be opened, and what to do about it where that is known."""
    text, hint = named(error), ""
    match resource, error.errno:
        case (Ingress() | Querying(), errno.EPERM):
            hint = "packet sockets need CAP_NET_RAW"
        case (Egress(), errno.ENETUNREACH | errno.EHOSTUNREACH):
            over = "" if resource.sending.routed else f" over {resource.interface}"
            hint = f"there is no route to {resource.address}{over}"
        case (Egress(), errno.EADDRINUSE):
            hint = f"another program has port {resource.sending.source_port} of {resource.source}"
        case (Egress(), errno.EACCES):
            hint = "a source_port below 1024 needs CAP_NET_BIND_SERVICE"
        case (Egress(), errno.EADDRNOTAVAIL):
            hint = f"{resource.source} is not an address of this host"
        case (_, errno.EMFILE):
            hint = "raise the limit on open files (LimitNOFILE=)"
        case (Membership(), errno.ENOBUFS):
            hint = "look at the sysctl net.ipv4.igmp_max_memberships"
        case (Membership() | Querying(), errno.ENOMEM):
            hint = "look at the sysctl net.core.optmem_max"
    return f"{text}: {hint}" if hint else text
