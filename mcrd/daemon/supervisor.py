"""The one loop: something happened -> look -> plan -> apply."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import gc
import glob
import hashlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mcrd import __version__, config, threads
from mcrd.beside.twice import Twice, twice
from mcrd.beside.watch import Watcher
from mcrd.client import ControlError, network_namespace
from mcrd.config import ConfigError
from mcrd.config.problems import Problem, is_about
from mcrd.daemon import privileges, report
from mcrd.daemon.alarms import Alarms
from mcrd.daemon.control import Request, Server
from mcrd.daemon.executor import Estate
from mcrd.daemon.metrics import Metrics
from mcrd.daemon.report import Flow
from mcrd.daemon.watch import Watch
from mcrd.errors import words
from mcrd.events import tell
from mcrd.files import read_file
from mcrd.host.links import Links
from mcrd.host.routes import Routes
from mcrd.lanes.counts import OF_RINGS
from mcrd.model import Config, Network, Rule
from mcrd.observe.capture import LONGEST, SHORTEST, BusyError, Looks
from mcrd.observe.kinds import mark
from mcrd.observe.listener import Listener
from mcrd.planning import names
from mcrd.planning.changes import Changes, changes
from mcrd.planning.plan import Wishes, outputs_by_lookup, plan
from mcrd.planning.resources import Lookup, Target, target, where
from mcrd.planning.states import OutputState, RuleState, states
from mcrd.sockets.filters import networks
from mcrd.systemd import journal
from mcrd.systemd.notify import Notify
from mcrd.tasks import Tasks, clean_up, describe

AT_ONCE = 64  # rules whose counters are read before others have their turn
ROUNDS = 8  # of looking, planning and applying, until the plan has to be empty
UNSETTLED = 0.25  # seconds until the next look when it was not
# Almost all that there is are rules, which stay: to look through them for garbage again and again
# was half of the time of a reload (gc.set_threshold()).
SELDOM = (100_000, 10, 10)
STATUS_EVERY = 5.0  # seconds
REFUSED_AGAIN = 60.0  # seconds in which the same problems of the rule file are told once
TICK = 0.5  # seconds between two looks at what makes no event
LOOKS, LOOK_AGAIN = 2, 0.5  # at who else relays; seconds between the two
LISTEN_EVERY = 0.05  # seconds, while somebody asks what is heard
# Seconds without progress after which planning hangs: a worker that does not start takes 13.
STALLED = 30.0

GOOD = OutputState("active")

log = logging.getLogger(__name__)


class Supervisor:
    """The daemon. `log_level` overrides the rule file's; both paths are absolute.

    With a file that is refused, it goes on by the rules of the daemon before it, where that has
    left them; without, run() raises the ConfigError.
    """

    def __init__(
        self, path: Path, control: Path, start: Config | ConfigError, log_level: str | None
    ) -> None:
        self._path = path
        self._config = Config()
        self._start = start
        self._log_level = log_level
        self._estate = Estate(self._wake)
        self._links = Links(self._links_changed)
        self._routes = Routes(lambda: self._links.now, self._ways_changed, self._ways_looked_at)
        self._outputs_of: dict[Lookup, list[tuple[str, Target]]] = {}
        self._sent_before: dict[tuple[Lookup, str, Target], int] = {}  # a way was in doubt
        self._metrics = Metrics(self._snapshot)
        self._adopted = 0.0
        self._server = Server(
            control,
            self._answer,
            guarded=frozenset({"reload", "look"}),
            lasting=frozenset({"look"}),
        )
        self._looks = Looks()
        self._listener = Listener()
        self._hearing: asyncio.Task[None] | None = None
        self._watch = Watch(self._file_changed)
        self._alarms = Alarms()
        self._watcher = Watcher(self._estate.ring_inodes, self._estate.output_inodes)
        self._notify = Notify()
        self._flow = Flow(time.monotonic())
        self._woken = asyncio.Event()
        self._stop = asyncio.Event()
        self._lock = asyncio.Lock()
        self._states: dict[str, RuleState] = {}
        self._wishes = Wishes()
        self._networks: Mapping[str, frozenset[Network]] = {}
        self._used: frozenset[str] = frozenset()  # names of interfaces in the rule file
        self._aliases: Mapping[str, str] = {}  # those that are alternative ones, and of which
        self._idle_tables: Mapping[str, str] = {}
        self._loader = config.Loader()
        self._reading = asyncio.Lock()
        self._errors: list[str] = []  # why the rule file, as it is now, is not what runs
        self._refused: tuple[tuple[Problem, ...], float] = ((), 0.0)  # told last, and when
        self._digest = b""
        self._saved = self._comparing = False
        self._pending = True
        self._started = time.monotonic()
        self._tasks = Tasks()
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
        loop.set_exception_handler(_log_exception)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon, "SIGHUP")
        gc.set_threshold(*SELDOM)
        await self._server.start()
        main = loop.create_task(self._main())
        stop = loop.create_task(self._stop.wait())
        try:
            await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
            if main.done():
                await main  # it never ends by itself: this raises
        finally:
            self._notify.stopping()
            stop.cancel()
            main.cancel()
            await asyncio.gather(main, stop, return_exceptions=True)
            await clean_up(
                (
                    ("the watch of the rule files", self._watch.stop),
                    ("tasks", self._tasks.stop),
                    ("metrics", self._metrics.stop),
                    ("the control socket", self._server.stop),
                    ("routes", self._routes.stop),
                    ("interfaces", self._links.stop),
                    ("what is open", self._estate.close),
                    ("the ears", self._listener.close),
                    ("the service manager", self._notify.close),
                )
            )
            tell(log, logging.INFO, "ended", "ended")

    async def _main(self) -> None:
        async with self._planning():
            await self._links.start()
            await self._routes.start()
            start = self._started_with(await self._estate.take_over())
            self._flow = self._flow_now()
            # What was counted before is no news.
            ledger = self._estate.ledger
            self._alarms.begin(start, ledger, ledger.interfaces(self._estate.ring_full()))
            self._tasks.endless("periodic checks", self._look_around)
            _, self._digest = await self._files_now(start)
            await self._adopt(start)
        self._notify.ready()
        text = "mcrd %s: %s"
        tell(log, logging.INFO, "started", text, __version__, self._summary())
        while not self._stop.is_set():  # Python 3.11's wait_for() may swallow a cancellation
            retry = self._estate.next_retry()
            pause = TICK if retry is None else min(TICK, retry)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause)
            async with self._planning():
                if self._woken.is_set() or (retry is not None and retry <= pause):
                    self._woken.clear()
                    await self._settle()
                else:
                    await self._estate.keep(at_once=False)

    @contextlib.asynccontextmanager
    async def _planning(self) -> AsyncIterator[None]:
        """One at a time; the watchdog hears when it comes no further."""
        async with self._lock:
            self._estate.advance()
            yield

    def _planning_goes_on(self) -> bool:
        return not self._lock.locked() or time.monotonic() - self._estate.advanced < STALLED

    async def _look_around(self) -> None:
        """Run the periodic checks beside planning, which may have to wait for a worker."""
        while True:
            await asyncio.sleep(TICK)
            self._look()

    def _started_with(self, left: Config | None) -> Config:
        """What to run by: the rule file, or if it is refused, what ran before."""
        if isinstance(self._start, Config):
            return self._start
        if left is None:
            raise self._start
        text = "the rule file is refused; the rules of the daemon before go on"
        tell(log, logging.ERROR, "reload-refused", text)
        self._errors = [str(problem) for problem in self._start.problems]
        for problem in self._errors:
            log.error("%s", problem)
        return left

    def _look(self) -> None:
        """At what makes no event. A fault in one look ends neither the daemon nor the others."""
        for what, look in (
            ("packet sockets", self._estate.take_errors),
            ("workers", self._estate.look_at_workers),
            ("members", self._estate.look_at_members),
            ("counters", self._look_at_counters),
            ("who else relays", self._look_beside),
            ("what is heard", self._listen),
            ("memberships", self._rejoin),
            ("rule files", self._watch.look),
            ("the log", journal.look),
            ("the service manager", self._tell_manager),
        ):
            try:
                look()
            except Exception as error:  # noqa: BLE001  # the others have to look all the same
                text = "periodic check failed: %s: %s"
                tell(log, logging.ERROR, "look-failed", text, what, describe(error), task=what)

    def _listen(self) -> None:
        self._listener.listen(self._links.now)

    def _rejoin(self) -> None:
        self._estate.rejoin(self._links.now, self._listener.mld)

    async def _listen_often(self) -> None:
        """While somebody wants to know: of a host that refuses all, hundreds of errors may come."""
        while self._looks.under_way:
            self._listen()
            await asyncio.sleep(LISTEN_EVERY)

    def _tell_manager(self) -> None:
        """That all is well, and how much flows."""
        self._notify.flush()
        if self._estate.is_well() and self._planning_goes_on():
            self._notify.alive()
        if time.monotonic() - self._flow.at < STATUS_EVERY or (self._pending and not self._states):
            return
        flow = self._flow_now()
        self._flow, before = flow, self._flow
        flowing = report.flow(before, flow)
        self._notify.status(f"{self._summary()}; {flowing}")

    def _flow_now(self) -> Flow:
        ledger = self._estate.ledger
        interfaces = ledger.interfaces(self._estate.ring_full())
        received = sum(count.received.packets for count in interfaces.values())
        lost = sum(count.dropped[name] for count in interfaces.values() for name in OF_RINGS)
        lost += ledger.failed()
        return Flow(time.monotonic(), received, ledger.sent(), lost, len(interfaces))

    def _wake(self) -> None:
        self._woken.set()

    def _ways_looked_at(self, doubted: Collection[Lookup], certain: Collection[Lookup]) -> None:
        """What is sent from now on may have to be counted as lost: how much was sent before?"""
        for lookup in doubted:
            for rule, called in self._outputs_of.get(lookup, ()):
                sent = self._estate.ledger.output(rule, called).sent.packets
                self._sent_before.setdefault((lookup, rule, called), sent)
        for key in [key for key in self._sent_before if key[0] in certain]:
            del self._sent_before[key]

    def _count_unanswered(self) -> None:
        """What outputs sent nowhere, until the workers were told that no way leads there."""
        ledger = self._estate.ledger
        for key, before in list(self._sent_before.items()):
            lookup, rule, called = key
            way = self._routes.now.get(lookup)
            if way is None or way.trouble:
                del self._sent_before[key]
            if way is not None and way.trouble:
                sent = ledger.output(rule, called).sent.packets
                ledger.sent_to_nobody(rule, called, max(0, sent - before))

    def _ways_changed(self, interfaces: frozenset[str]) -> None:
        self._wake()
        self._estate.retry_outputs_now(interfaces)

    def _links_changed(self, changed: frozenset[str]) -> None:
        self._wake()  # first: planning looks at what is there, whatever fails here
        self._estate.retry_now(changed)
        self._routes.links_changed()
        self._estate.take_errors()

    def _look_at_names(self, used: frozenset[str] | None = None) -> None:
        """At what the rule file's names of interfaces stand for now; `used`: it is a new file."""
        if used is not None:
            self._used = used
        aliases = names.aliases(self._used, self._links.now)
        if used is None and aliases == self._aliases:
            return
        self._networks = networks(self._config, self._links.now)
        tables = names.doubles(self._config, self._links.now).tables
        for name, interface in aliases.items():
            if self._aliases.get(name) != interface:
                text = "%s is an alternative name of %s"
                where = {"interface": interface}
                tell(log, logging.INFO, "interface-name", text, name, interface, **where)
        for name, why in tables.items():
            if self._idle_tables.get(name) != why:
                log.warning("interfaces.%s: %s", name, why)
        self._aliases, self._idle_tables = aliases, tables

    async def _settle(self) -> None:
        """Looks, plans and applies until there is nothing left to do."""
        self._pending = True
        for _ in range(ROUNDS):
            self._look_at_names()
            await self._estate.renew_suspects()
            self._estate.admit(self._networks, also_old=True)
            actual = self._estate.actual(self._links.now, self._routes.now, to_plan=True)
            steps = plan(self._config, actual, self._wishes)
            if not steps:
                break
            for step in steps:
                log.debug("%s", step)
            began = time.monotonic()
            await self._estate.apply(steps, self._links.now)
            took = 1000 * (time.monotonic() - began)
            undone = self._estate.undone(steps)
            text = "plan applied: %s (%.0f ms)"
            if undone:
                text += f"; of {len(steps)}, {undone} could not be done: `mcrctl rules` says why"
            # One that comes to nothing at all was tried before, and the rules say why.
            level = logging.DEBUG if undone == len(steps) else logging.INFO
            tell(log, level, "plan-applied", text, report.steps(steps), took)
        else:
            text = "planning did not converge after %d rounds; retrying in %g s"
            log.warning(text, ROUNDS, UNSETTLED)
            asyncio.get_running_loop().call_later(UNSETTLED, self._wake)
        self._estate.admit(self._networks, also_old=False)
        self._estate.end_retired()
        await self._estate.keep()
        self._count_unanswered()
        self._pending = False
        self._look_at_states()
        self._notify.status(self._summary())

    def _look_at_states(self) -> None:
        now = self._now()
        for name, state in now.items():
            before = self._states.get(name)
            if before is None or (before.state, before.reason) != (state.state, state.reason):
                if state.state == "active":
                    self._watcher.soon(name)
                grave = logging.WARNING if state.state in ("waiting", "failed") else logging.INFO
                tell(
                    log,
                    grave,
                    "rule-state",
                    "rules.%s: %s",
                    name,
                    report.state(state),
                    rule=name,
                    interface=self._config.rules[name].input.interface,
                )
            for index, output in enumerate(state.outputs):
                was = before.outputs[index] if before and index < len(before.outputs) else None
                if (
                    state.state == "active"
                    and (output != GOOD or (before and before.state == "active"))
                    and (was is None or (was.state, was.reason) != (output.state, output.reason))
                ):
                    grave = logging.INFO if output == GOOD else logging.WARNING
                    self._tell_output(grave, name, index, output)
        self._states = now

    def _tell_output(self, level: int, name: str, index: int, state: OutputState) -> None:
        output = self._config.rules[name].outputs[index]
        tell(
            log,
            level,
            "output-state",
            "rules.%s: outputs[%d]: %s",
            name,
            index,
            report.state(state),
            rule=name,
            interface=output.interface,
            output=where(output),
        )

    def _look_at_counters(self) -> None:
        ledger = self._estate.ledger
        interfaces = ledger.interfaces(self._estate.ring_full())
        self._alarms.look(self._config, self._states, ledger, interfaces)

    async def _adopt(self, new: Config) -> Changes:
        """Makes `new` what is wanted, and so."""
        old, self._config = self._config, new
        self._estate.run_by(new)
        changed = changes(old, new)
        level = self._log_level or new.daemon.log_level
        journal.set_level(level)
        self._estate.set_level(level)
        await self._metrics.listen(new.metrics.listen)
        self._adopted = time.time()
        told = {_saying(warning) for warning in old.warnings}
        for warning in new.warnings:
            if _saying(warning) not in told:
                log.warning("%s", warning)
        self._look_at_names(names.used(new))
        if new.daemon.watch:
            self._watch.start(self._files(new), new.include_patterns)
        else:
            self._watch.stop()
        self._outputs_of = outputs_by_lookup(new)
        self._routes.watch(self._outputs_of)
        self._wishes.keep(new.rules)
        self._alarms.keep(new.rules)
        self._estate.forget(new, self._links.now)
        self._estate.retry_now()
        await self._settle()
        self._estate.ledger.forget(
            new.rules,
            ((rule.name, target(output)) for rule in new.rules.values() for output in rule.outputs),
            (names.real(rule.input.interface, self._links.now) for rule in new.rules.values()),
        )
        return changed

    async def _load(self) -> Config:
        """Reads the rule file; when it is not what it should be, all stays as it was."""
        files, self._digest = await self._files_now(self._config)
        try:
            new = await self._read()
            now, digest = await self._files_now(new)
            if now != files:  # else what was saved meanwhile is news
                self._digest = digest
        except ConfigError as error:
            self._errors = [str(problem) for problem in error.problems]
            self._notify.status(self._summary())
            raise
        if self._errors:
            tell(log, logging.INFO, "config-good", "the rule file is good again")
        self._errors = []
        self._refused = ((), 0.0)
        return new

    async def _reload(self, why: str) -> Changes:
        async with self._planning():
            self._awaited.discard(why)
            self._notify.reloading()
            try:
                new = await self._load()
                changed = await self._adopt(new)
            except ConfigError as error:
                self._tell_refusal(why, error)
                raise
            except Exception:
                self._wake()  # planning goes on from where this one ended, or ends the daemon
                raise
            finally:
                self._notify.ready()
            text = "reload (%s): %s"
            tell(log, logging.INFO, "reload", text, why, changed.summary())
            return changed

    def _tell_refusal(self, why: str, error: ConfigError) -> None:
        """Once: whoever saves a file and then reloads it has the same problems twice."""
        before, at = self._refused
        now = time.monotonic()
        again = before == error.problems and now < at + REFUSED_AGAIN
        text = "reload (%s) refused; the rules that run stay as they are"
        if again:
            tell(log, logging.DEBUG, "reload-refused", text, why)
            return
        self._refused = (error.problems, now)
        tell(log, logging.ERROR, "reload-refused", text, why)
        for problem in error.problems:
            log.error("%s", problem)

    def _reload_soon(self, why: str) -> None:
        """One that waits already will read what is there then."""
        if why in self._awaited:
            return

        async def reload() -> None:
            with contextlib.suppress(ConfigError):  # it is in the log
                await self._reload(why)

        self._awaited.add(why)
        self._tasks.passing(f"reload ({why})", reload)

    def _files(self, of: Config) -> set[str]:
        """What the rule files are now: the main one, those read, and those that came to match."""
        matching = (name for pattern in of.include_patterns for name in glob.glob(pattern))
        return {str(self._path), *of.files, *matching}

    async def _files_now(self, of: Config) -> tuple[set[str], bytes]:
        """The rule files, and their digest. A thread reads: a file server may not answer."""

        def read() -> tuple[set[str], bytes]:
            files = self._files(of)
            return files, _digest(files)

        return await threads.apart(read)

    def _file_changed(self) -> None:
        self._saved = True
        if not self._comparing:
            self._comparing = True
            self._tasks.passing("the look at a saved rule file", self._compare)

    async def _compare(self) -> None:
        """One at a time; what is saved meanwhile is looked at afterwards."""
        try:
            while self._saved:
                self._saved = False
                _, digest = await self._files_now(self._config)
                if digest == self._digest:
                    continue  # a touch, or what a reload has read already
                if await threads.apart(self._path.exists):
                    self._reload_soon("file saved")
                else:
                    log.warning("%s has gone; the rules that run stay as they are", self._path)
                    self._digest = digest
        finally:
            self._comparing = False

    async def _answer(self, request: Request) -> Any:
        try:
            match request.command:
                case "reload":
                    changed = await self._reload("mcrctl")
                    return {**self._changes(changed), "troubled": report.troubled(self._states)}
                case "diff":
                    return await self._diff(request.arguments.get("name"))
                case "status":
                    return self._status()
                case "rules":
                    return self._rules(request.arguments.get("name"))
                case "stats":
                    return await self._stats(request.arguments.get("name"))
                case "others":
                    return await self._others(request.arguments.get("name"))
                case "look":
                    return await self._traffic(request.arguments)
                case other:
                    raise ControlError(f"unknown command: {other}")
        except ConfigError as error:
            refusal = ControlError(*(str(problem) for problem in error.problems))
            refusal.logged = request.command == "reload"
            raise refusal from None

    async def _diff(self, name: object) -> dict[str, Any]:
        """What a reload would change. Of one rule: with the reasons why the file is refused."""
        if name is None:
            return self._changes(changes(self._config, await self._by_now()))
        try:
            new = await self._by_now()
        except ConfigError as error:
            return {"refused": [str(problem) for problem in error.problems]}
        old = self._config
        changed = changes(_only(old, str(name)), _only(new, str(name)))
        return {**self._changes(changed), "refused": []}

    async def _by_now(self) -> Config:
        """What the files say; they are only parsed when they have changed. Raises ConfigError."""
        running, known = self._config, self._digest
        if not self._errors:
            _, digest = await self._files_now(running)
            if digest == known:
                return running
        return await self._read()

    async def _read(self) -> Config:
        """What the files say now; only what has changed is read again. Raises ConfigError."""
        async with self._reading:
            return await threads.apart(lambda: self._loader.load(self._path))

    @staticmethod
    def _changes(changed: Changes) -> dict[str, Any]:
        return {**asdict(changed), "text": changed.lines()}

    def _uptime(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _summary(self) -> str:
        text = report.summary(self._states)
        return f"{text}; rule file refused: {self._errors[0]}" if self._errors else text

    def _now(self, rules: Mapping[str, Rule] | None = None) -> dict[str, RuleState]:
        """How these rules fare, or all."""
        actual = self._estate.actual(self._links.now, self._routes.now)
        return states(self._config, actual, self._wishes, rules)

    def _status(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "network_namespace": network_namespace(),
            "uptime_s": self._uptime(),
            "config": str(self._path),
            "config_errors": self._errors,
            "watch_trouble": self._watch.trouble,
            "pending": self._pending,
            "summary": self._summary(),
            "rules": dict(Counter(state.state for state in self._states.values())),
            "sandbox": {
                "mode": self._config.daemon.sandbox,
                "missing": report.lacking(self._estate),
            },
            "privileges": privileges.now(),
            "lost": {"log": journal.lost(), "service_manager": self._notify.lost},
            "metrics": {"listen": self._config.metrics.listen, "error": self._metrics.error},
            "workers": report.workers(self._estate),
        }

    def _rules(self, name: object) -> dict[str, Any]:
        rules = self._named(name)
        now = self._now(rules)
        links = self._links.now
        found = {
            key: report.rule(rule, now[key], links, names.rejoin(self._config, rule, links))
            for key, rule in rules.items()
        }
        if name is None:
            return {"rules": found}
        warnings = [line for line in self._config.warnings if is_about(line, str(name))]
        return {"rules": found, "warnings": warnings}

    def _named(self, name: object) -> Mapping[str, Rule]:
        """The rule of this name, or all rules for None; raises ControlError."""
        if name is None:
            return self._config.rules
        if not isinstance(name, str) or name not in self._config.rules:
            raise ControlError(f"there is no rule {name!r}; `mcrctl rules` lists them")
        return {name: self._config.rules[name]}

    async def _stats(self, name: object = None) -> dict[str, Any]:
        """All counters, or those of a rule and of its input interface.

        Others have their turn meanwhile: there may be thousands of rules.
        """
        given = self._named(name)
        states, ledger, silent = self._now(given), self._estate.ledger, self._alarms.silent
        rules: dict[str, Any] = {}
        for number, (key, rule) in enumerate(given.items(), 1):
            rules[key] = report.rule_stats(rule, states[key], ledger, silent, self._links.now)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        here = (names.real(r.input.interface, self._links.now) for r in given.values())
        only = None if name is None else frozenset(here)
        others = report.other_stats(self._estate, only)
        return {"uptime_s": self._uptime(), "rules": rules, **others}

    async def _traffic(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What comes to the input interface of a rule, for mcrctl explain."""
        (rule,) = self._named(str(arguments.get("name"))).values()
        seconds = arguments.get("seconds", 3.0)
        if not isinstance(seconds, int | float) or not SHORTEST <= seconds <= LONGEST:
            raise ControlError(f"seconds have to be from {SHORTEST:g} to {LONGEST:g}")
        if self._hearing is None or self._hearing.done():
            self._hearing = self._tasks.passing("listening", self._listen_often)
        try:
            here = names.rule_here(rule, self._links.now)
            seen = await self._looks.look(here.input, seconds)
        except BusyError as error:
            raise ControlError(f"busy: {error}") from None
        except OSError as error:
            raise ControlError(f"cannot look at {rule.input.interface}: {words(error)}") from None
        self._listen()
        found = {**seen, **self._listener.tell(here)}
        mark(found, here, names.config_here(self._config, self._links.now).rules.values())
        return found

    async def _others(self, name: object) -> dict[str, Any]:
        """Who else relays what these rules do; what is about to go is gone at the second look."""
        rules = self._named(name)
        found: list[Twice] = []
        for look in range(LOOKS):
            if look and not found:
                break
            await asyncio.sleep(look * LOOK_AGAIN)
            sight, links = await self._watcher.sight(), self._links.now
            seen = twice(self._active(rules).values(), links, sight)
            before = {(one.rule, one.by) for one in found}
            found = [one for one in seen if not look or (one.rule, one.by) in before]
        return {"twice": [one.plain() for one in found], "unseen": list(sight.unseen)}

    def _active(self, rules: Mapping[str, Rule]) -> dict[str, Rule]:
        """Those of the rules that are active, with the interfaces' own names."""
        return {
            name: names.rule_here(rule, self._links.now)
            for name, rule in rules.items()
            if name in self._states and self._states[name].state == "active"
        }

    def _look_beside(self) -> None:
        if self._watcher.is_due():
            self._tasks.passing("who else relays", self._who_else_relays)

    async def _who_else_relays(self) -> None:
        await self._watcher.look(lambda: self._active(self._config.rules), lambda: self._links.now)

    async def _snapshot(self) -> dict[str, Any]:
        """What the metrics show."""
        return {
            "version": __version__,
            "config_errors": self._errors,
            "config_time": self._adopted,
            **await self._stats(),
        }


def _saying(warning: str) -> str:
    """A warning without its place, which an edit elsewhere in the file moves."""
    return warning.partition(": ")[2]


def _only(config: Config, name: str) -> Config:
    """With this rule alone, if it has that."""
    rules = {name: config.rules[name]} if name in config.rules else {}
    return replace(config, rules=rules)


def _digest(files: Iterable[str]) -> bytes:
    """A hash of the files' names and contents."""
    total = hashlib.sha256()
    for name in sorted(set(files)):
        total.update(name.encode() + b"\0")
        with contextlib.suppress(OSError):
            total.update(hashlib.sha256(read_file(name)).digest())
    return total.digest()


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody caught: one line, as when descriptors run out and no client can be accepted.

    Not each time: a callback of the loop may fail again and again.
    """
    error, message = context.get("exception"), str(context.get("message"))
    text = f"{message}: {error!r}" if error is not None else message
    about = f"{type(error).__name__}: {message[:40]}"
    tell(log, logging.ERROR, "unexpected", "%s", text, task=about)
