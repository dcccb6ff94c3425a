"""What Prometheus scrapes: the counters of mcrctl stats under conventional names.

What they show is put together in the daemon's loop, a few rules at a time, and made into text in a
thread, so that a scrape of thousands of rules holds nothing up.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from mcrd import journal, web
from mcrd.errors import words
from mcrd.states import STATES
from mcrd.web import Answer, Request

RETRY = 5.0  # seconds until the next try to listen

Snapshot = Callable[[], Coroutine[Any, Any, dict[str, Any]]]

log = logging.getLogger(__name__)


class Metrics:
    """The server; listens nowhere until told."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._collector = _Collector()
        registry = CollectorRegistry()
        registry.register(self._collector)
        self._app = make_wsgi_app(registry)
        self._turn = asyncio.Lock()
        self._waiting: dict[tuple[str, ...], asyncio.Task[Answer]] = {}
        self.server = web.Server(self._answer)
        self._where: str | None = None
        self._retry: asyncio.Task[None] | None = None
        self.error: str | None = None

    async def listen(self, where: str | None) -> None:
        """Listens there, and no longer where it did; what cannot be is tried again."""
        if where != self._where:
            await self.stop()
            self._where = where
            if where is not None and not await self._start(where):
                self._retry = asyncio.create_task(self._try_again(where))

    async def stop(self) -> None:
        """Listens no more, and drops whoever is being served."""
        retry, self._retry = self._retry, None
        self.error = self._where = None
        if retry is not None:
            retry.cancel()
            await asyncio.gather(retry, return_exceptions=True)
        await self.server.stop()

    async def _try_again(self, where: str) -> None:
        listens = False
        while not listens:
            await asyncio.sleep(RETRY)
            listens = await self._start(where)

    async def _start(self, where: str) -> bool:
        host, _, port = where.rpartition(":")
        try:
            await self.server.start(host.strip("[]"), int(port))
        except OSError as error:
            why = words(error)
            if self.error is None:
                text = "metrics: cannot listen at %s: %s; trying again"
                journal.tell(log, logging.ERROR, "metrics-failed", text, where, why)
            self.error = why
            return False
        self.error = None
        journal.tell(log, logging.INFO, "metrics-started", "metrics: at http://%s/metrics", where)
        return True

    async def _answer(self, request: Request) -> Answer:
        """One answer at a time is made; those who want the same and wait share it."""
        accepts = (request.headers.get(name, "") for name in ("accept", "accept-encoding"))
        key = (request.method, request.path, request.query, *accepts)
        task = self._waiting.get(key)
        if task is None:
            task = self._waiting[key] = asyncio.create_task(self._make(key))
        return await asyncio.shield(task)

    async def _make(self, key: tuple[str, ...]) -> Answer:
        async with self._turn:
            del self._waiting[key]  # who comes now wants what is newer
            self._collector.given = await self._snapshot()
            try:
                made = asyncio.get_running_loop().run_in_executor(None, partial(self._call, *key))
            except RuntimeError as error:  # no thread can be started
                journal.tell(log, logging.WARNING, "metrics-failed", "metrics: %s", error)
                return Answer("503 Service Unavailable", (("Retry-After", "1"),))
            try:
                return await made
            finally:
                self._collector.given = None

    def _call(self, method: str, path: str, query: str, accept: str, encoding: str) -> Answer:
        """Asks prometheus-client, which knows the formats; in a thread."""
        told: list[Any] = []
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "HTTP_ACCEPT": accept,
            "HTTP_ACCEPT_ENCODING": encoding,
        }
        body = b"".join(self._app(environ, lambda *start: told.extend(start)))
        return Answer(told[0], tuple(told[1]), body)


class _Collector(Collector):
    """What the metrics show, while there is something to be shown."""

    def __init__(self) -> None:
        self.given: dict[str, Any] | None = None

    def describe(self) -> list[Metric]:
        """Nothing, or there would be a scrape at the registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, of one moment."""
        if self.given is not None:
            yield from families(self.given)


class _Family:
    """A family of metrics with these labels."""

    def __init__(self, kind: type[Any], name: str, about: str, *labels: str) -> None:
        self.metric = kind(name, about, labels=labels)

    def add(self, value: float, *labels: object) -> None:
        """One of it."""
        self.metric.add_metric([str(label) for label in labels], value)


def families(given: dict[str, Any]) -> Iterator[Metric]:
    """The metrics of a snapshot: what `mcrctl stats --json` says, and `status`, of one moment."""
    info = InfoMetricFamily("mcrd_build", "The version of mcrd that runs.")
    info.add_metric([], {"version": given["version"]})
    yield info
    yield from _of_the_file(given)
    yield from _of_rules(given)
    yield from _of_outputs(given)
    yield from _of_interfaces(given)
    yield from _of_workers(given)
    lost = _Family(
        CounterMetricFamily,
        "mcrd_kernel_fragment_sets_lost",
        "Sets of fragments that never became a packet, of this host's whole network.",
        "family",
    )
    for name, count in given["kernel"].items():
        lost.add(count, name.partition("_")[0])
    yield lost.metric


def _of_the_file(given: dict[str, Any]) -> Iterator[Metric]:
    good = _Family(
        GaugeMetricFamily,
        "mcrd_config_last_reload_successful",
        "1 when the rule file, as it was read last, is what runs; 0 when it has problems.",
    )
    good.add(not given["config_errors"])
    yield good.metric
    when = _Family(
        GaugeMetricFamily,
        "mcrd_config_last_reload_success_timestamp_seconds",
        "When a rule file was last taken over.",
    )
    when.add(given["config_time"])
    yield when.metric
    rules = _Family(GaugeMetricFamily, "mcrd_rules", "Rules in each state.", "state")
    for state in STATES:
        rules.add(sum(rule["state"] == state for rule in given["rules"].values()), state)
    yield rules.metric


def _of_rules(given: dict[str, Any]) -> Iterator[Metric]:
    labels = ("rule", "interface")
    packets = _Family(
        CounterMetricFamily, "mcrd_rule_received_packets", "Datagrams that a rule took.", *labels
    )
    octets = _Family(
        CounterMetricFamily, "mcrd_rule_received_bytes", "Their payload, in bytes.", *labels
    )
    dropped = _Family(
        CounterMetricFamily,
        "mcrd_rule_dropped_packets",
        "Datagrams for a rule that went no further.",
        *labels,
        "reason",
    )
    active = _Family(
        GaugeMetricFamily,
        "mcrd_rule_active",
        "1 when a rule is at work, 0 when it waits, has failed or is disabled.",
        *labels,
    )
    silent = _Family(
        GaugeMetricFamily,
        "mcrd_rule_silent",
        "1 when nothing has come for a rule for longer than its silence.",
        *labels,
    )
    peak = _Family(
        GaugeMetricFamily,
        "mcrd_rule_peak_packets",
        "The most datagrams for a rule in 10 ms, within the last minute.",
        *labels,
    )
    for name, rule in given["rules"].items():
        where = (name, rule["interface"])
        packets.add(rule["received"]["packets"], *where)
        octets.add(rule["received"]["bytes"], *where)
        for reason, count in rule["dropped"].items():
            dropped.add(count, *where, reason)
        active.add(rule["state"] == "active", *where)
        if rule["silent"] is not None:
            silent.add(rule["silent"], *where)
        peak.add(rule["rate"]["peak"]["minute"], *where)
    yield from (f.metric for f in (packets, octets, dropped, active, silent, peak))


def _of_outputs(given: dict[str, Any]) -> Iterator[Metric]:
    labels = ("rule", "output")
    packets = _Family(
        CounterMetricFamily, "mcrd_output_sent_packets", "Datagrams that an output sent.", *labels
    )
    octets = _Family(
        CounterMetricFamily, "mcrd_output_sent_bytes", "Their payload, in bytes.", *labels
    )
    errors = _Family(
        CounterMetricFamily,
        "mcrd_output_errors",
        "Datagrams that an output could not send, by the name of the error.",
        *labels,
        "error",
    )
    dropped = _Family(
        CounterMetricFamily,
        "mcrd_output_dropped_packets",
        "Datagrams that an output was not to send, or had no socket or no way for.",
        *labels,
        "reason",
    )
    refused = _Family(
        CounterMetricFamily,
        "mcrd_output_refusals",
        "Reports of a host that nobody listens there; no datagram is lost by them.",
        *labels,
    )
    active = _Family(
        GaugeMetricFamily, "mcrd_output_active", "1 when an output is at work.", *labels
    )
    by = _Family(
        GaugeMetricFamily,
        "mcrd_output_routed",
        "1 for the interface that an output sends by now, of one that follows the routes.",
        *labels,
        "interface",
    )
    for name, rule in given["rules"].items():
        for output in rule["outputs"]:
            where = (name, output["where"])
            if output["interface"] is None and output["interface_now"]:
                by.add(1, *where, output["interface_now"])
            packets.add(output["sent"]["packets"], *where)
            octets.add(output["sent"]["bytes"], *where)
            for error, count in output["errors"].items():
                errors.add(count, *where, error)
            for reason in ("rate_limited", "new_member", "unreachable"):
                dropped.add(output[reason], *where, reason)
            refused.add(output["refused"], *where)
            active.add(output["state"] == "active", *where)
    yield from (f.metric for f in (packets, octets, errors, dropped, refused, active, by))


def _of_interfaces(given: dict[str, Any]) -> Iterator[Metric]:
    packets = _Family(
        CounterMetricFamily,
        "mcrd_interface_received_packets",
        "Datagrams that were taken from the rings of an interface.",
        "interface",
    )
    octets = _Family(
        CounterMetricFamily,
        "mcrd_interface_received_bytes",
        "Their frames, in bytes.",
        "interface",
    )
    dropped = _Family(
        CounterMetricFamily,
        "mcrd_interface_dropped_packets",
        "Datagrams that went to no rule, by reason; of those that no worker took, about.",
        "interface",
        "reason",
    )
    frames = _Family(
        CounterMetricFamily,
        "mcrd_interface_dropped_frames",
        "Frames that no worker took, each of one datagram or more, by reason; exact.",
        "interface",
        "reason",
    )
    peak = _Family(
        GaugeMetricFamily,
        "mcrd_interface_peak_packets",
        "The most datagrams in 10 ms, within the last minute.",
        "interface",
    )
    for name, interface in given["interfaces"].items():
        packets.add(interface["received"]["packets"], name)
        octets.add(interface["received"]["bytes"], name)
        for reason, count in interface["dropped"].items():
            dropped.add(count, name, reason)
        for reason, count in interface["dropped_frames"].items():
            frames.add(count, name, reason)
        peak.add(interface["rate"]["peak"]["minute"], name)
    yield from (f.metric for f in (packets, octets, dropped, frames, peak))


def _of_workers(given: dict[str, Any]) -> Iterator[Metric]:
    labels = ("interface", "worker")
    packets = _Family(
        CounterMetricFamily,
        "mcrd_worker_received_packets",
        "Datagrams that the workers on a ring have taken from it.",
        *labels,
    )
    full = _Family(
        CounterMetricFamily,
        "mcrd_worker_ring_full_packets",
        "Datagrams that found no room in the rings of a worker, about.",
        *labels,
    )
    full_frames = _Family(
        CounterMetricFamily,
        "mcrd_worker_ring_full_frames",
        "Frames that found no room in the rings of a worker, each of one datagram or more; exact.",
        *labels,
    )
    restarts = _Family(
        CounterMetricFamily,
        "mcrd_worker_restarts",
        "Workers on a ring that ended when they should not have.",
        *labels,
    )
    layers = _Family(
        GaugeMetricFamily,
        "mcrd_worker_sandbox_missing_layers",
        "Layers of the sandbox that the worker is without.",
        *labels,
    )
    for worker in given["workers"]:
        where = (worker["interface"], worker["number"])
        packets.add(worker["received"]["packets"], *where)
        full.add(worker["dropped"]["ring_full"], *where)
        full_frames.add(worker["dropped_frames"]["ring_full"], *where)
        restarts.add(worker["restarts"], *where)
        layers.add(len(worker["missing"]), *where)
    yield from (f.metric for f in (packets, full, full_frames, restarts, layers))
