"""The addresses of hosts by their names: DNS is asked, and again when the TTL is over."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from mcrd.errors import words
from mcrd.events import tell
from mcrd.model import Address
from mcrd.planning.hostnames import NAMES_AT_MOST, Resolved
from mcrd.words import few

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as Asker
    from dns.resolver import Answer

PATIENCE = 5.0  # seconds for an answer, of all servers together
SOONEST = 5.0  # seconds until a name is asked for again, whatever its TTL
LATEST = 3600.0
RETRY_LATEST = 60.0  # seconds until the next try where no server answers
MANY = 8  # failures, after which the next try comes no later
AT_A_TIME = 16  # names
NAMED = 4  # addresses in a line of the log
FAMILIES = ("A", "AAAA")
NONE = "DNS has no address of it (/etc/hosts is not read)"

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Name:
    """When a name is asked for next (seconds, monotonic), and how often in a row that failed."""

    due: float = 0.0
    failures: int = 0
    asking: asyncio.Task[None] | None = None


class Resolver:
    """Keeps `resolved` as DNS has it, by name; calls `changed` when that is another.

    The servers are those of /etc/resolv.conf, as it is at the time.
    """

    def __init__(self, resolved: dict[str, Resolved], changed: Callable[[], None]) -> None:
        self._resolved = resolved
        self._changed = changed
        self._names: dict[str, _Name] = {}
        self._woken = asyncio.Event()
        self._at_a_time = asyncio.Semaphore(AT_A_TIME)

    def want(self, wanted: Sequence[str]) -> None:
        """Ask for these names alone from now on, or as many of them as there may be."""
        names = frozenset(wanted[:NAMES_AT_MOST])
        for name in self._names.keys() - names:
            if (asking := self._names.pop(name).asking) is not None:
                asking.cancel()
        for name in self._resolved.keys() - names:
            del self._resolved[name]
        for name in names - self._names.keys():
            self._names[name] = _Name()
            self._woken.set()
        for name in wanted[NAMES_AT_MOST:]:
            self._resolved[name] = Resolved(
                trouble=f"more than {NAMES_AT_MOST} names are not looked up"
            )

    async def run(self) -> None:
        """Ask for what is due, until it is cancelled."""
        try:
            while True:
                self._woken.clear()
                now = time.monotonic()
                waiting = [each for each in self._names.items() if each[1].asking is None]
                for name, state in waiting:
                    if state.due <= now:
                        state.asking = asyncio.create_task(self._ask(name, state))
                due = (state.due for _, state in waiting if state.asking is None)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), min(due, default=now + LATEST) - now)
        finally:
            for state in self._names.values():
                if state.asking is not None:
                    state.asking.cancel()

    async def _ask(self, name: str, state: _Name) -> None:
        old = self._resolved.get(name, Resolved())
        try:
            async with self._at_a_time:
                new, ttl = await _look_up(name, old)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is said, and tried again
            why = words(error) if isinstance(error, OSError) else str(error)
            new, ttl = Resolved(old.addresses, why or type(error).__name__), None
        finally:
            state.asking = None
            self._woken.set()
        state.failures = min(state.failures + 1, MANY) if ttl is None else 0
        pause = min(SOONEST * 2**state.failures, RETRY_LATEST) if ttl is None else ttl
        state.due = time.monotonic() + min(max(pause, SOONEST), LATEST)
        if new != old:
            self._resolved[name] = new
            _say(name, new)
            self._changed()


async def _look_up(name: str, old: Resolved) -> tuple[Resolved, float | None]:
    """The addresses, and for how many seconds; None: some are old ones, as no server answers."""
    import dns.asyncresolver  # noqa: PLC0415  # 13 MiB, for who has names

    asker = dns.asyncresolver.Resolver()
    found = await asyncio.gather(*(_records(asker, name, family) for family in FAMILIES))
    addresses: set[Address] = set()
    ttls: list[float] = []
    failed = ""
    for version, (answer, trouble) in zip((4, 6), found, strict=True):
        failed = failed or trouble
        if trouble:
            addresses.update(each for each in old.addresses if each.version == version)
        elif answer is not None and answer.rrset is not None:
            addresses.update(ip_address(record.address) for record in answer.rrset)
            ttls.append(answer.rrset.ttl)
    stayed = [each for each in old.addresses if each in addresses]
    came = sorted(addresses.difference(stayed), key=lambda each: (each.version, int(each)))
    new = Resolved((*stayed, *came), failed or ("" if addresses else NONE))
    return new, None if failed else min(ttls, default=0.0)


async def _records(asker: Asker, name: str, family: str) -> tuple[Answer | None, str]:
    """What DNS has of one family; None: nothing. And why it does not answer, "" where it does."""
    from dns import exception, resolver  # noqa: PLC0415

    try:
        answer = await asker.resolve(
            name, family, lifetime=PATIENCE, search=True, raise_on_no_answer=False
        )
    except resolver.NXDOMAIN:
        return None, ""
    except exception.Timeout:
        return None, f"no DNS server answered within {PATIENCE:g} s"
    except resolver.NoNameservers:
        return None, "the DNS servers have failed, or refuse to answer"
    except exception.DNSException as error:
        return None, str(error)
    return answer, ""


def _say(name: str, new: Resolved) -> None:
    number, which = len(new.addresses), few(new.addresses, NAMED)
    text, level = f"{number} address{'es' * (number > 1)}: {which}", logging.INFO
    if new.trouble:
        level = logging.WARNING
        text = f"{new.trouble}; it keeps {text}" if number else new.trouble
    tell(log, level, "addresses", "%s: %s", name, text)
