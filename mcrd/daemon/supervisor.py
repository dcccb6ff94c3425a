"""The one loop: something happened -> look -> plan -> apply."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mcrd import __version__
from mcrd.answers import Changes
from mcrd.beside.lookout import Watcher
from mcrd.config import Blocks, ConfigError
from mcrd.daemon import commands
from mcrd.daemon.alarms import Alarms
from mcrd.daemon.commands import Commands
from mcrd.daemon.control import Server
from mcrd.daemon.health import Health
from mcrd.daemon.log_of_states import tell_changes
from mcrd.daemon.planner import Planner
from mcrd.daemon.rulefile import RuleFile
from mcrd.daemon.switches import Switches
from mcrd.events import tell
from mcrd.model import Config
from mcrd.observe.listener import Listener
from mcrd.planning.changes import changes, summary
from mcrd.planning.patterns import expand
from mcrd.systemd import journal
from mcrd.systemd.notify import Notify
from mcrd.tasks import Tasks, clean_up, log_uncaught, log_unraisable, take_all

TICK = 0.5  # seconds between two looks at what makes no event

log = logging.getLogger(__name__)


class Supervisor:
    """The daemon. `log_level` overrides the rule file's; both paths are absolute.

    `start` was read with `blocks`, so that the first reload reads only what has changed since.

    With a file that is refused, it goes on by the rules of the daemon before it, where that has
    left them; without, run() raises the ConfigError.
    """

    def __init__(
        self,
        path: Path,
        control: Path,
        start: Config | ConfigError,
        blocks: Blocks,
        log_level: str | None,
    ) -> None:
        self._start = start
        self._log_level = log_level
        self._tasks = Tasks()
        self._planner = Planner()
        self._estate = self._planner.estate
        holdings = self._estate.holdings
        self._file = RuleFile(path, self._tasks, lambda: self._reload_soon("file saved"), blocks)
        self._notify = Notify()
        self._health = Health(self._planner, self._file, self._notify)
        self._alarms = Alarms()
        self._switches = Switches()
        self._watcher = Watcher(holdings.ring_inodes, holdings.output_inodes)
        self._listener = Listener()
        holdings.rejoins.queried = self._listener.mld
        self._commands = Commands(
            planner=self._planner,
            file=self._file,
            notify=self._notify,
            alarms=self._alarms,
            watcher=self._watcher,
            listener=self._listener,
            tasks=self._tasks,
            reload=self._reload,
            settle=self._settle_by,
        )
        self._metrics = self._commands.metrics
        answer = self._commands.answer
        self._server = Server(control, answer, commands.GUARDED, commands.LASTING)
        self._stop = asyncio.Event()
        self._awaited: set[str] = set()  # reloads that wait for their turn, by why

    async def run(self, ended_early: Callable[[], bool] = lambda: False) -> None:
        """Runs until SIGTERM or SIGINT; raises ControlError without a control socket.

        `ended_early` says whether one of these came before they could be handled here.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if ended_early():
            return
        loop.set_exception_handler(log_uncaught)
        sys.unraisablehook = log_unraisable
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon, "SIGHUP")
        await self._server.start()
        main = loop.create_task(self._main())
        stop = loop.create_task(self._stop.wait())
        try:
            await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
            if main.done():
                await main  # it never ends by itself: this raises
        finally:
            self._stop.set()
            self._notify.stopping()
            stop.cancel()
            main.cancel()
            await asyncio.gather(main, stop, return_exceptions=True)
            await clean_up(
                (
                    ("the rule files", self._file.stop),
                    ("tasks", self._tasks.stop),
                    ("metrics", self._metrics.stop),
                    ("the control socket", self._server.stop),
                    ("routes", self._planner.routes.stop),
                    ("interfaces", self._planner.links.stop),
                    ("what is open", self._estate.close),
                    ("the ears", self._listener.close),
                    ("the service manager", self._notify.close),
                )
            )
            tell(log, logging.INFO, "ended", "ended")

    async def _main(self) -> None:
        async with self._planner.turn():
            await self._begin()
        self._notify.ready()
        text = "mcrd %s: %s"
        tell(log, logging.INFO, "started", text, __version__, self._health.summary())
        woken = self._planner.woken
        while not self._stop.is_set():  # Python 3.11's wait_for() may swallow a cancellation
            retry = self._estate.failures.next_retry()
            pause = TICK if retry is None else min(TICK, retry)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), pause)
            async with self._planner.turn():
                if woken.is_set() or (retry is not None and retry <= pause):
                    woken.clear()
                    await self._settle()
                else:
                    await self._estate.handover.keep(at_once=False)

    async def _begin(self) -> None:
        """Go on from what the supervisor before left, or begin anew."""
        await self._planner.links.start()
        await self._planner.routes.start()
        start = self._file.begin(self._start, await self._estate.handover.take_over())
        self._health.begin()
        # What was counted before is no news.
        ledger = self._estate.ledger
        self._switches.look(expand(start, self._planner.links.now).rules, ledger, is_news=False)
        self._alarms.begin(start, ledger, ledger.interfaces(self._estate.holdings.ring_full()))
        self._tasks.endless("periodic checks", self._look_around)
        self._tasks.endless("names of hosts", self._planner.resolver.run)
        await self._file.has_been_read(start)
        await self._adopt(start)

    async def _look_around(self) -> None:
        """At what makes no event, beside planning, which may have to wait for a worker."""
        checks = (
            ("packet sockets", self._estate.holdings.take_errors),
            ("workers", self._estate.look_at_workers),
            ("members", self._estate.look_at_members),
            ("counters", self._look_at_counters),
            ("who else relays", self._look_beside),
            ("what is heard", lambda: self._listener.listen(self._planner.links.now)),
            ("memberships", self._rejoin),
            ("queriers", lambda: self._estate.holdings.queriers.look(self._planner.links.now)),
            ("rule files", self._file.watch.look),
            ("the log", journal.look),
            ("the service manager", self._health.tell),
        )
        while True:
            await asyncio.sleep(TICK)
            take_all(checks)

    def _look_at_counters(self) -> None:
        planner, ledger = self._planner, self._estate.ledger
        interfaces = ledger.interfaces(self._estate.holdings.ring_full())
        self._alarms.look(planner.config, planner.states, ledger, interfaces)
        self._switches.look(planner.config.rules, ledger)

    def _look_beside(self) -> None:
        if self._watcher.is_due():
            planner = self._planner
            self._tasks.passing(
                "who else relays",
                lambda: self._watcher.look(
                    lambda: planner.active(planner.config.rules), lambda: planner.links.now
                ),
            )

    def _rejoin(self) -> None:
        self._estate.holdings.rejoin(self._planner.links.now)

    async def _settle(self) -> None:
        before, ran = self._planner.states, self._planner.config
        await self._planner.settle()
        if self._planner.config is not ran:  # interfaces or addresses came or went
            self._alarms.keep(self._planner.config.rules)
            self._planner.forget()
        now, rules, pace = self._planner.states, self._planner.config.rules, self._planner.pace
        for name in tell_changes(before, now, rules, pace):
            self._watcher.soon(name)
        self._notify.status(self._health.summary())

    async def _adopt(self, new: Config) -> Changes:
        """Make `new` what is wanted, and so."""
        old = self._planner.written
        level = self._log_level or new.daemon.log_level
        journal.set_level(level)
        self._estate.set_level(level)
        await self._metrics.listen(new.metrics.listen)
        self._commands.adopted = time.time()
        self._file.follow(new)
        self._planner.run_by(new)
        self._commands.known.set()
        self._alarms.keep(self._planner.config.rules)
        await self._settle()
        self._planner.forget()
        return changes(old, new)

    async def _reload(self, why: str) -> Changes:
        async with self._planner.turn():
            self._awaited.discard(why)
            self._notify.reloading()
            try:
                changed = await self._adopt(await self._file.load())
            except ConfigError as error:
                self._notify.status(self._health.summary())
                self._file.tell_refusal(why, error)
                raise
            except Exception:
                self._planner.woken.set()  # planning goes on from here, or ends the daemon
                raise
            finally:
                self._notify.ready()
            tell(log, logging.INFO, "reload", "reload (%s): %s", why, summary(changed))
            return changed

    async def _settle_by(self, change: Callable[[], None]) -> None:
        async with self._planner.turn():
            change()
            await self._settle()

    def _reload_soon(self, why: str) -> None:
        """One that waits already will read what is there then."""
        if why in self._awaited or self._stop.is_set():
            return

        async def reload() -> None:
            with contextlib.suppress(ConfigError):  # it is in the log
                await self._reload(why)

        self._awaited.add(why)
        self._tasks.passing(f"reload ({why})", reload)
