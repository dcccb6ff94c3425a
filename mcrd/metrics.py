"""What Prometheus scrapes: the counters of mcrctl stats under conventional names.

Served by threads of their own. What they show is put together in the daemon's loop, a few rules at
a time, so that a scrape of thousands of them holds nothing up.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from socket import AF_INET, AF_INET6
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from mcrd import journal
from mcrd.errors import words
from mcrd.states import STATES

SCRAPE_TIMEOUT = 30.0  # seconds; Prometheus itself waits for ten, unless told
CLIENT_TIMEOUT = 30.0  # seconds that a client may be silent
CLIENTS = 64  # at once; others are turned away
POLL = 0.1  # seconds within which the server hears that it is to end
RETRY = 5.0  # seconds until the next try to listen

Snapshot = Callable[[], Coroutine[Any, Any, dict[str, Any]]]

log = logging.getLogger(__name__)


class Metrics:
    """The server; listens nowhere until told."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(snapshot, asyncio.get_running_loop()))
        self._where: str | None = None
        self._server: Any = None
        self._retry: asyncio.TimerHandle | None = None
        self.error: str | None = None

    async def listen(self, where: str | None) -> None:
        """Listens there, and no longer where it did; what cannot be is tried again."""
        if where != self._where:
            await self.stop()
            self._where = where
            self._start()

    async def stop(self) -> None:
        """Listens no more. A scrape that is under way ends by itself."""
        server, retry = self._server, self._retry
        self._server = self._retry = self.error = self._where = None
        if retry is not None:
            retry.cancel()
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    def _start(self) -> None:
        if self._where is None:
            return
        host, _, port = self._where.rpartition(":")
        try:
            self._server = _Server((host.strip("[]"), int(port)), make_wsgi_app(self._registry))
        except OSError as error:
            if self.error is None:
                text = "metrics: cannot listen at %s: %s; trying again"
                why = words(error)
                journal.tell(log, logging.ERROR, "metrics-failed", text, self._where, why)
            self.error = words(error)
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._start)
            return
        threading.Thread(
            target=self._server.serve_forever, args=(POLL,), name="metrics", daemon=True
        ).start()
        self.error = None
        text = "metrics: at http://%s/metrics"
        journal.tell(log, logging.INFO, "metrics-started", text, self._where)


class _Handler(WSGIRequestHandler):
    """One that stays silent, or reads nothing, is dropped; nobody writes into the log."""

    timeout = CLIENT_TIMEOUT

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Every scrape would be a line."""

    def get_stderr(self) -> Any:
        """Where wsgiref writes tracebacks of clients that went away."""
        return _Nowhere()


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        """Logs it, for those who look for it."""
        log.debug("metrics: %s", text.strip())
        return len(text)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each client, and not more than a few."""

    daemon_threads = True

    def __init__(self, where: tuple[str, int], app: Any) -> None:
        self.address_family = AF_INET6 if ":" in where[0] else AF_INET
        self._room = threading.BoundedSemaphore(CLIENTS)
        super().__init__(where, _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """As HTTPServer does, but asks no name server who we are."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if there is one left."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """A client, from its request to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, mostly."""
        del request
        log.debug("metrics: client %s", client_address, exc_info=True)


class _Collector(Collector):
    """Runs in the thread of a scrape."""

    def __init__(self, snapshot: Snapshot, loop: asyncio.AbstractEventLoop) -> None:
        self._snapshot = snapshot
        self._loop = loop

    def describe(self) -> list[Metric]:
        """Nothing, or there would be a scrape at the registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, of one moment."""
        taken = asyncio.run_coroutine_threadsafe(self._snapshot(), self._loop)
        yield from families(taken.result(SCRAPE_TIMEOUT))


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
        "Datagrams that an output was not to send, or had no socket for yet.",
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
    for name, rule in given["rules"].items():
        for output in rule["outputs"]:
            where = (name, output["where"])
            packets.add(output["sent"]["packets"], *where)
            octets.add(output["sent"]["bytes"], *where)
            for error, count in output["errors"].items():
                errors.add(count, *where, error)
            for reason in ("rate_limited", "new_member"):
                dropped.add(output[reason], *where, reason)
            refused.add(output["refused"], *where)
            active.add(output["state"] == "active", *where)
    yield from (f.metric for f in (packets, octets, errors, dropped, refused, active))


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
        "Datagrams that went to no rule, by reason; ring_full are those that found no room.",
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
        peak.add(interface["rate"]["peak"]["minute"], name)
    yield from (f.metric for f in (packets, octets, dropped, peak))


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
        "Frames that found no room in the ring of a worker.",
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
        restarts.add(worker["restarts"], *where)
        layers.add(len(worker["missing"]), *where)
    yield from (f.metric for f in (packets, full, restarts, layers))
