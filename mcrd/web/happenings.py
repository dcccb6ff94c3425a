"""What happened between two looks at the daemon, in words. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from mcrd.answers import Status, Worker
from mcrd.events import counted
from mcrd.picture import RulePicture
from mcrd.words import unsent_for

AT_ONCE = 20  # of one look
QUIET = 30.0  # seconds without a loss after which the next one is told again
LOSSES_MOST = 10_000  # that are remembered

Rules = Mapping[str, RulePicture]


class Happening(Struct):
    """`at` is in seconds from the epoch; `kind` is "daemon", "rule", "worker", "lost" or "file"."""

    at: float
    kind: str
    text: str
    rule: str = ""


class Watch:
    """Remembers the last look."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._workers: Sequence[Worker] = ()
        self._lost_at: dict[tuple[str, str], float] = {}
        self._is_away = False

    def look(
        self, now: float, status: Status, workers: Sequence[Worker], old: Rules, new: Rules
    ) -> list[Happening]:
        """What is different now; nothing at the first look.

        `old` are rules as they were that have changed or gone, `new` those that changed or came.
        """
        before, self._status = self._status, status
        found: list[Happening] = []
        if before is not None:
            text = _of_daemon(before, status, self._is_away)
            found += [Happening(now, "daemon", text)] if text else []
            found += [Happening(now, "file", text) for text in _of_file(before, status)]
            found += [
                Happening(now, "worker", text) for text in _of_workers(self._workers, workers)
            ]
            found += [Happening(now, "rule", *each) for each in _of_rules(old, new)]
            found += self._losses(now, {} if self._is_away else old, new)
        self._workers, self._is_away = workers, False
        if len(found) > AT_ONCE:
            rest = Happening(now, "daemon", f"and {len(found) - AT_ONCE} more at the same time")
            found = [*found[:AT_ONCE], rest]
        return found

    def gone(self, now: float, why: str) -> list[Happening]:
        """The daemon does not answer; told once. What it counted may begin anew."""
        if self._status is None or self._is_away:
            return []
        self._is_away, self._workers = True, ()
        return [Happening(now, "daemon", why)]

    def _losses(self, now: float, old: Rules, new: Rules) -> Iterator[Happening]:
        self._lost_at = {key: at for key, at in self._lost_at.items() if abs(now - at) < QUIET}
        for name, rule in new.items():
            for why, number in _lost(old.get(name, rule), rule).items():
                is_new = (name, why) not in self._lost_at
                if is_new and len(self._lost_at) >= LOSSES_MOST:
                    continue
                self._lost_at[name, why] = now
                if is_new:
                    told = f"{name} loses packets: {number} {unsent_for(why)}"
                    yield Happening(now, "lost", told, name)


def _lost(old: RulePicture, new: RulePicture) -> dict[str, int]:
    """What was lost since then by the rule and all its outputs, by its reason."""
    found: Counter[str] = Counter()
    _add_risen(found, old.lost, new.lost)
    for before, output in zip(old.outputs, new.outputs, strict=False):
        if (before.interface, before.to) == (output.interface, output.to):
            _add_risen(found, before.lost, output.lost)
    return found


def _add_risen(found: Counter[str], old: dict[str, int], new: dict[str, int]) -> None:
    for why, number in new.items():
        if number > (before := old.get(why, 0)):
            found[why] += number - before


def _of_daemon(old: Status, new: Status, was_away: bool) -> str:
    if old.pid != new.pid or new.uptime_s < old.uptime_s:
        return f"mcrd {new.version} has started, pid {new.pid}"
    return "mcrd answers again" if was_away else ""


def _of_file(old: Status, new: Status) -> Iterator[str]:
    if new.config_errors and new.config_errors != old.config_errors:
        rest = len(new.config_errors) - 1
        more = f", and {counted(rest, 'problem')} more" if rest else ""
        yield f"the rule file has problems; the old rules run: {new.config_errors[0]}{more}"
    if old.config_errors and not new.config_errors:
        yield "the rule file is good again"


def _of_workers(old: Sequence[Worker], new: Sequence[Worker]) -> Iterator[str]:
    before = {(worker.interface, worker.number): worker for worker in old}
    for worker in new:
        was = before.get((worker.interface, worker.number))
        called = f"worker {worker.number} of {worker.interface}"
        if was is not None and worker.restarts > was.restarts:
            yield f"{called} was replaced: pid {was.pid} has ended, {worker.pid} goes on"
        elif was is not None and worker.state != was.state:
            yield f"{called} is {worker.state} now"


def _of_rules(old: Rules, new: Rules) -> Iterator[tuple[str, str]]:
    for name, rule in new.items():
        was = old.get(name)
        if was is None:
            yield f"{name} is new: {rule.state}", name
        elif rule.state != was.state:
            reason = f": {rule.reason}" if rule.reason else ""
            yield f"{name} is {rule.state} now{reason}", name
        elif [each.to for each in rule.outputs] != [each.to for each in was.outputs]:
            yield f"{name} has {counted(len(rule.outputs), 'output')} now", name
        elif rule.used and was.used is False:
            yield f"{name} is the input in use now", name
    for name in old:
        if name not in new:
            yield f"{name} is gone", name
