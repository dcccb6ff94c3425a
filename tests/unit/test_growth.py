"""What a daemon remembers does not grow with what comes and goes."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import closing
from ipaddress import IPv4Address, ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.addresses import target
from mcrd.config import Blocks, ConfigError, parse
from mcrd.daemon.alarms import Alarms
from mcrd.daemon.executor import Estate
from mcrd.events import COMPLAIN_EVERY
from mcrd.lanes import ledger as ledgers
from mcrd.lanes.holdings import Holdings
from mcrd.lanes.lane import Lane
from mcrd.lanes.ledger import Ledger
from mcrd.lanes.members import MemberSockets
from mcrd.lanes.recovery import STALE
from mcrd.lanes.segment import Segment
from mcrd.model import Config, Input, Output, Rule
from mcrd.planning.resources import Egress, Ingress, Ring, Sending, Worker
from mcrd.sockets.egress import EgressSockets
from mcrd.sockets.lost import Lost
from mcrd.systemd.journal import AT_ONCE_IN, Limiter
from tests.lab.sizes import sizes

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 1000
HERE = ip_address("127.0.0.1")


class Clock:
    """time.monotonic() that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1e6
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def of(interface: str, name: str = "a") -> Config:
    """A rule from there."""
    output = Output("lo", HERE, 5000, ttl=1)
    return Config(rules={name: Rule(name, Input(interface, HERE, 5000), (output,))})


def flat(step: Callable[[int], None], *roots: object, most: int = 0) -> None:
    """After as many steps again, nothing is larger than it was, or than `most`."""
    for number in range(MANY // 2):
        step(number)
    before = sizes(*roots)
    for number in range(MANY // 2, MANY):
        step(number)
    after = sizes(*roots)
    assert {
        k: (before.get(k, 0), n) for k, n in after.items() if n > max(before.get(k, 0), most)
    } == {}


def test_counters_of_interfaces_that_come_and_go() -> None:
    """Each with a rule of its own, a ring, drops, a stream that fails, and then none of it."""
    ledger, alarms = Ledger(), Alarms()

    def step(number: int) -> None:
        name = f"v{number}"
        config = of(name, f"rule-{number}")
        (rule,) = config.rules.values()
        ring, segment = Ring(Ingress(name, number)), Segment()
        ledger.attach(ring, segment)
        segment.rule_slot(rule.name)
        segment.output_slot(rule.name, target(rule.outputs[0]))
        alarms.keep(config.rules)
        for lost in (number, number + 5):
            count = ledger.interfaces({ring: Lost(lost, lost)})
            count[name].dropped["own_output"] = lost
            alarms.look(config, {}, ledger, count)
        ledger.detach(ring, Lost(number, number))
        inputs = [rule.input.interface for rule in config.rules.values()]
        ledger.forget(config.rules, [(rule.name, target(rule.outputs[0]))], inputs)
        alarms._ongoing.clear()  # noqa: SLF001  it is over after seconds

    logging.disable()
    try:
        flat(step, ledger, alarms)
    finally:
        logging.disable(logging.NOTSET)
    kept = ledger.interfaces({})
    assert list(kept) == [f"v{number}" for number in range(MANY - ledgers.OTHERS - 1, MANY)]


def lane(estate: Estate, worker: Worker) -> Lane:
    """One whose rings and counters nobody looks at."""
    nothing: Any = SimpleNamespace(received=0, attach=lambda *_: None, end_waiting=lambda *_: None)
    made = Lane(worker.ring, nothing, nothing, nothing, nothing, lambda: None)
    estate.holdings.lanes[worker.ring] = made
    return made


def end(made: Lane, estate: Estate, age: float) -> None:
    """Its worker of that age ends."""
    (ring,) = made.rings
    process: Any = SimpleNamespace(
        worker=Worker(ring.ingress, ring.number), age=age, suspect=False, crashed=False, pid=1
    )
    made.process = process
    made._ended(estate._worker_ended, process, "killed")  # noqa: SLF001


def test_workers_that_end_early_on_interfaces_that_come_and_go(clock: Clock) -> None:
    """The index of each is another one; so is its name."""
    logging.disable()
    estate = Estate(lambda: None)

    def step(number: int) -> None:
        clock.now += 1
        worker = Worker(Ingress(f"v{number}", number))
        estate.forget(of(f"v{number}"), {})
        end(lane(estate, worker), estate, 0.1)
        del estate.holdings.lanes[worker.ring]
        estate.actual({})

    try:
        flat(step, estate, most=int(STALE) + 1)
    finally:
        logging.disable(logging.NOTSET)
    assert dict(estate.recovery.restarts) == {(f"v{MANY - 1}", 0): 1}


def test_a_worker_that_ends_again_and_again_waits_longer_and_longer(clock: Clock) -> None:
    """Its row is not forgotten before it could have gone on."""
    logging.disable()
    estate = Estate(lambda: None)
    worker = Worker(Ingress("v0", 2))
    made = lane(estate, worker)
    waits = []
    for _ in range(12):
        end(made, estate, 9.0)
        wait = estate.actual({}).failures[worker].retry_at - clock.now
        waits.append(wait)
        clock.now += wait + 19.0  # a start that takes its time, and a short life
    logging.disable(logging.NOTSET)
    assert waits[:4] == [0.0, 0.25, 0.5, 1.0]
    assert waits[-2:] == [30.0, 30.0]


def test_ports_of_addresses_that_come_and_go() -> None:
    opener = EgressSockets()
    worker = Worker(Ingress("lo", 1))
    known = ("a", ("lo", HERE, 5000))

    def step(number: int) -> None:
        source = IPv4Address(int(HERE) + number % 250 + 1)
        egress = Egress(worker, "a", Sending("lo", 1, source, ttl=1), HERE, 5000)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            opener._bind(sock, egress)  # noqa: SLF001
            first = sock.getsockname()[1]
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            opener._bind(sock, egress)  # noqa: SLF001
            assert sock.getsockname()[1] == first  # it comes again, and keeps its port

    flat(step, opener)
    opener.forget({known})
    assert len(opener.ports) == 8
    step(MANY)
    assert len(opener.ports) == 8
    opener.forget(set())
    assert sizes(opener) == {"EgressSockets.ports": 0, "EgressSockets._sources": 0}


def test_complaints_about_rules_that_come_and_go(clock: Clock) -> None:
    logging.disable()
    segment = Segment()
    found = MemberSockets(segment, EgressSockets())

    def step(number: int) -> None:
        clock.now += 1
        found._complain(f"rule-{number}", "has no room")  # noqa: SLF001

    try:
        flat(step, found, most=int(COMPLAIN_EVERY) + 1)
    finally:
        logging.disable(logging.NOTSET)
        segment.close()


def test_lines_of_the_log_about_what_comes_and_goes(clock: Clock) -> None:
    limiter = Limiter()

    def step(number: int) -> None:
        clock.now += 1
        record = logging.LogRecord("mcrd", 20, "", 0, "x", (), None)
        record.fields = {"EVENT": "rule-state", "INTERFACE": f"v{number}"}
        limiter.filter(record)
        limiter.due()

    flat(step, limiter, most=int(AT_ONCE_IN) + 1)


def test_files_that_are_refused_again_and_again() -> None:
    blocks = Blocks()
    rule = '[rules.{}]\ninput = {{ interface = "r0", address = "239.1.1.1", port = {} }}\n'
    output = 'outputs = [{ interface = "r1", address = "239.2.2.2", port = 6000, ttl = 1 }]\n'
    good = rule.format("a", 5000) + output
    parse(good, "f", blocks)

    def step(number: int) -> None:
        with pytest.raises(ConfigError):
            parse(good + rule.format(f"r{number}", 5000) + output, "f", blocks)

    flat(step, blocks)
    assert list(parse(good, "f", blocks).rules) == ["a"]


def test_what_is_open_and_closed_again() -> None:
    """In the holdings, nothing of it stays."""
    holdings = Holdings()
    worker = Worker(Ingress("lo", 1))

    def step(number: int) -> None:
        egress = Egress(worker, f"r{number}", Sending("lo", 1, HERE, ttl=1), HERE, 5000)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        holdings.add_egress(egress, sock)
        holdings.close(egress)
        holdings.admit({f"v{number}": frozenset()}, also_old=True)
        holdings.admit({}, also_old=False)

    async def scenario() -> None:
        flat(step, holdings)

    asyncio.run(scenario())
