"""The families of metrics, as a table: add a row to add a family."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec import field
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import InfoMetricFamily as Info
from prometheus_client.core import Metric

from mcrd.answers import Asked, HostName
from mcrd.counters import OutputCounts, RuleCounts, Stats, WorkerCounts
from mcrd.daemon.legs import FAULTS as LEG_FAULTS
from mcrd.inspected import FAULTS, TS_FAULTS
from mcrd.merged import RESULTS
from mcrd.planning.states import STATES
from mcrd.sums import InspectCount


class Snapshot(Stats):
    """What `mcrctl stats` answers, and a part of `status` and `members`, of one moment.

    `config_time` is when the rules that run were applied, in seconds since the epoch.
    """

    version: str = ""
    config_errors: list[str] = field(default_factory=list)
    config_time: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    names: dict[str, HostName] = field(default_factory=dict)


class Subject(NamedTuple):
    """Something that has metrics: its labels; and of a snapshot their values, with the entry."""

    labels: tuple[str, ...]
    entries: Callable[[Snapshot], Iterable[tuple[tuple[object, ...], Any]]]


class Family(NamedTuple):
    """One family of metrics."""

    name: str
    kind: type[Any]
    subject: Subject
    value: str | Callable[[Any], Any]
    """Of an entry: attributes with dots between, or a function. A value of None is not shown."""
    label: str | None
    """One more label. Then the value is a dictionary: of each value of this label, the number."""
    about: str


DAEMON = Subject((), lambda given: [((), given)])
RULE = Subject(
    ("rule", "interface"),
    lambda given: (((name, rule.interface), rule) for name, rule in given.rules.items()),
)
OUTPUT = Subject(
    ("rule", "output"),
    lambda given: (
        ((name, output.where), output)
        for name, rule in given.rules.items()
        for output in rule.outputs
    ),
)


def _part(of: Subject, name: str) -> Subject:
    """What some entries of a subject have by this name, and others have not."""

    def entries(given: Snapshot) -> Iterator[tuple[tuple[object, ...], Any]]:
        for labels, entry in of.entries(given):
            if (part := getattr(entry, name)) is not None:
                yield labels, part

    return Subject(of.labels, entries)


ANSWERS = _part(OUTPUT, "answers")
INSPECTED = _part(RULE, "inspect")
MERGED = _part(RULE, "merge")
SWITCHED = _part(RULE, "switch")
INTERFACE = Subject(
    ("interface",), lambda given: (((name,), each) for name, each in given.interfaces.items())
)
WORKER = Subject(
    ("interface", "worker"),
    lambda given: (((each.interface, each.number), each) for each in given.workers),
)
MEMBERS = Subject(
    ("interface", "protocol"),
    lambda given: (((each.interface, each.protocol), each) for each in given.asked),
)
NAME = Subject(("name",), lambda given: (((name,), each) for name, each in given.names.items()))


def _states(daemon: Snapshot) -> dict[str, int]:
    states = [rule.state for rule in daemon.rules.values()]
    return {state: states.count(state) for state in STATES}


def _fragments(daemon: Snapshot) -> dict[str, int]:
    return {name.partition("_")[0]: count for name, count in daemon.kernel.items()}


def _is_active(rule_or_output: RuleCounts | OutputCounts) -> bool:
    return rule_or_output.state == "active"


def _engine(worker: WorkerCounts) -> dict[str, int]:
    return {worker.engine: 1} if worker.engine else {}


def _routed(output: OutputCounts) -> dict[str, int]:
    by = output.interface_now
    return {by: 1} if by and output.interface is None else {}


def _reports(asked: Asked) -> dict[str, int]:
    counted = {name: int(getattr(asked, name)) for name in ("ignored", "unread", "malformed")}
    return {"taken": asked.reports - asked.ignored} | counted


def _ring_full(counted: str) -> Callable[[WorkerCounts], int]:
    return lambda worker: int(getattr(worker, counted)["ring_full"])


def _leg_faults(rule: RuleCounts) -> dict[str, int]:
    names = LEG_FAULTS if rule.merge is not None else ()
    return {name.removeprefix("leg_"): int(name in rule.leg_faults) for name in names}


def _faults(names: Iterable[str], of: str = "") -> Callable[[InspectCount], dict[str, int]]:
    return lambda found: {name: attrgetter(of + name)(found) for name in names}


# fmt: off
FAMILIES = (
    Family("mcrd_build", Info, DAEMON, lambda daemon: {"version": daemon.version}, None,
        "The version of mcrd that runs."),
    Family("mcrd_config_last_reload_successful", Gauge, DAEMON,
        lambda daemon: not daemon.config_errors, None,
        "1 when the rule file that was read last is in use; 0 when it has problems."),
    Family("mcrd_config_last_reload_success_timestamp_seconds", Gauge, DAEMON, "config_time", None,
        "When a rule file was last applied."),
    Family("mcrd_rules", Gauge, DAEMON, _states, "state",
        "Rules in each state."),
    Family("mcrd_rule_received_packets", Counter, RULE, "received.packets", None,
        "Datagrams that a rule took."),
    Family("mcrd_rule_received_bytes", Counter, RULE, "received.bytes", None,
        "Their payload, in bytes."),
    Family("mcrd_rule_dropped_packets", Counter, RULE, "dropped", "reason",
        "Datagrams for a rule that went no further."),
    Family("mcrd_rule_active", Gauge, RULE, _is_active, None,
        "1 when a rule is active, 0 when it waits, has failed or is disabled."),
    Family("mcrd_rule_silent", Gauge, RULE, "silent", None,
        "1 when a rule has received nothing for longer than its silence."),
    Family("mcrd_rule_peak_packets", Gauge, RULE, "rate.peak.minute", None,
        "The most datagrams for a rule in 10 ms, within the last minute."),
    Family("mcrd_rule_inspected_packets", Counter, INSPECTED, "inspected", None,
        "Datagrams of a rule with inspect that were looked at."),
    Family("mcrd_rule_lost_before", Counter, INSPECTED, "lost", None,
        "Datagrams, or messages of MoldUDP64, that were lost before they came here."),
    Family("mcrd_rule_stream_faults", Counter, INSPECTED, _faults(FAULTS), "fault",
        "What else the numbers of a stream show."),
    Family("mcrd_rule_jitter_seconds", Gauge, INSPECTED, "jitter_s", None,
        "Interarrival jitter of RTP, as in RFC 3550."),
    Family("mcrd_rule_longest_silence_seconds", Gauge, INSPECTED, "longest_silence_s", None,
        "The longest time between two datagrams of a flow."),
    Family("mcrd_rule_ts_continuity_errors", Counter, INSPECTED, "mpeg_ts.by_pid", "pid",
        "Errors of the continuity counters of MPEG-TS."),
    Family("mcrd_rule_ts_faults", Counter, INSPECTED, _faults(TS_FAULTS, "mpeg_ts."), "fault",
        "What else packets of MPEG-TS show."),
    Family("mcrd_rule_pcr_interval_seconds", Gauge, INSPECTED, "mpeg_ts.pcr_interval_s",
        None, "The longest time between two PCRs of MPEG-TS, by the times in them."),
    Family("mcrd_rule_pcr_jitter_seconds", Gauge, INSPECTED, "mpeg_ts.pcr_jitter_s", None,
        "How far from the times in them the PCRs of MPEG-TS arrive."),
    Family("mcrd_rule_backlog_packets", Gauge, RULE, "backlog", None,
        "Datagrams that a rule with standby keeps now, to send them when it takes over."),
    Family("mcrd_rule_overheard_packets", Counter, RULE, "overheard", None,
        "Datagrams that another host was heard to send while the rule stood by."),
    Family("mcrd_rule_leg_received_packets", Counter, MERGED, "received", None,
        "Datagrams that an input of a merged stream brought."),
    Family("mcrd_rule_leg_packets", Counter, MERGED, _faults(RESULTS), "result",
        "What became of the datagrams of an input of a merged stream, and what it lost."),
    Family("mcrd_rule_leg_held_packets", Gauge, MERGED, "held", None,
        "Datagrams of an input that wait now, so that the stream leaves in order."),
    Family("mcrd_rule_leg_fault", Gauge, RULE, _leg_faults, "fault",
        "1 while an input of a merged stream brings nothing, late packets or another stream."),
    Family("mcrd_rule_leg_skew_seconds", Gauge, MERGED, "skew_p50_s", None,
        "How much later than the first ones the copies of an input come: half of them at most."),
    Family("mcrd_rule_leg_skew_most_seconds", Gauge, MERGED, "skew_most_s", None,
        "How much later than the first one a copy of an input came at most."),
    Family("mcrd_rule_switches", Counter, SWITCHED, "switches", None,
        "How often a rule with switch began to use this input in place of another."),
    Family("mcrd_rule_in_use", Gauge, SWITCHED, "used", None,
        "1 for the input of a rule with switch that is in use, 0 for the others."),
    Family("mcrd_output_sent_packets", Counter, OUTPUT, "sent.packets", None,
        "Datagrams that an output sent."),
    Family("mcrd_output_sent_bytes", Counter, OUTPUT, "sent.bytes", None,
        "Their payload, in bytes."),
    Family("mcrd_output_errors", Counter, OUTPUT, "errors", "error",
        "Datagrams that an output could not send, by the name of the error."),
    Family("mcrd_output_dropped_packets", Counter, OUTPUT, "dropped", "reason",
        "Datagrams that an output dropped: over its limit, or without a socket or a way."),
    Family("mcrd_output_skipped_packets", Counter, OUTPUT, "skipped", "reason",
        "Datagrams of a rule that an output was not to send: by its sources, or its sample."),
    Family("mcrd_output_refusals", Counter, OUTPUT, "refused", None,
        "Reports of a host that nobody listens there; no datagram is lost by them."),
    Family("mcrd_output_waiting_packets", Gauge, OUTPUT, "waiting", None,
        "Datagrams that wait now for the socket of their group or source."),
    Family("mcrd_output_active", Gauge, OUTPUT, _is_active, None,
        "1 when an output is active."),
    Family("mcrd_output_routed", Gauge, OUTPUT, _routed, "interface",
        "1 for the interface by which an output that follows the routes sends now."),
    Family("mcrd_output_askers", Gauge, ANSWERS, "askers", None,
        "Askers that get answers now, of an output with replies."),
    Family("mcrd_output_answered_packets", Counter, ANSWERS, "sent.packets", None,
        "Answers that went back to who asked."),
    Family("mcrd_output_answered_bytes", Counter, ANSWERS, "sent.bytes", None,
        "Their payload, in bytes."),
    Family("mcrd_output_answers_dropped_packets", Counter, ANSWERS, "unsent", "reason",
        "Answers that did not go back: late, without room or socket, or by the name of an error."),
    Family("mcrd_interface_received_packets", Counter, INTERFACE, "received.packets", None,
        "Datagrams that were taken from the rings of an interface."),
    Family("mcrd_interface_received_bytes", Counter, INTERFACE, "received.bytes", None,
        "Their frames, in bytes."),
    Family("mcrd_interface_dropped_packets", Counter, INTERFACE, "dropped", "reason",
        "Datagrams that went to no rule, by reason; estimated for those that no worker took."),
    Family("mcrd_interface_dropped_frames", Counter, INTERFACE, "dropped_frames", "reason",
        "Frames that no worker took, each of one datagram or more, by reason; exact."),
    Family("mcrd_interface_reports", Counter, INTERFACE, "reports", "result",
        "Reports of memberships that were sent unasked (rejoin), or failed."),
    Family("mcrd_interface_peak_packets", Gauge, INTERFACE, "rate.peak.minute", None,
        "The most datagrams in 10 ms, within the last minute."),
    Family("mcrd_members_groups", Gauge, MEMBERS, lambda asked: len(asked.groups), None,
        "Groups that hosts of an interface have joined, where this host listens to them."),
    Family("mcrd_members_reports", Counter, MEMBERS, _reports, "result",
        "What hosts said of their groups (IGMP, MLD), and what became of it."),
    Family("mcrd_querier_elected", Gauge, MEMBERS, "elected", None,
        "1 while this host asks who has joined what, 0 while another does, or it only listens."),
    Family("mcrd_querier_queries", Counter, MEMBERS, "queries", None,
        "Queries that this host sent."),
    Family("mcrd_name_addresses", Gauge, NAME, lambda name: len(name.addresses), None,
        "Addresses that DNS has of the name of a receiver, or had when it answered last."),
    Family("mcrd_name_failing", Gauge, NAME, lambda name: bool(name.trouble), None,
        "1 while DNS does not answer for a name, or has no address of it."),
    Family("mcrd_worker_received_packets", Counter, WORKER, "received.packets", None,
        "Datagrams that the workers on a ring have taken from it."),
    Family("mcrd_worker_ring_full_packets", Counter, WORKER, _ring_full("dropped"), None,
        "Datagrams that found no room in the rings of a worker, estimated."),
    Family("mcrd_worker_ring_full_frames", Counter, WORKER, _ring_full("dropped_frames"), None,
        "Frames that found no room in the rings of a worker, each of one datagram or more; exact."),
    Family("mcrd_worker_restarts", Counter, WORKER, "restarts", None,
        "Workers on a ring that ended when they should not have."),
    Family("mcrd_worker_sandbox_missing_layers", Gauge, WORKER, lambda one: len(one.missing), None,
        "Layers of the sandbox that the worker is without."),
    Family("mcrd_worker_engine", Gauge, WORKER, _engine, "engine",
        "1, with what the worker waits and sends with: io_uring or poll."),
    Family("mcrd_kernel_fragment_sets_lost", Counter, DAEMON, _fragments, "family",
        "Sets of fragments that never became a packet, of this host's whole network."),
)
# fmt: on


def families(given: Snapshot) -> Iterator[Metric]:
    """The metrics of a snapshot."""
    entries = {
        subject: [(list(map(str, labels)), entry) for labels, entry in subject.entries(given)]
        for subject in {family.subject for family in FAMILIES}
    }
    for name, kind, subject, value, label, about in FAMILIES:
        metric = kind(name, about, labels=(*subject.labels, label) if label else subject.labels)
        read = value if callable(value) else attrgetter(value)
        for labels, entry in entries[subject]:
            found = read(entry)
            if label is not None:
                for one, number in found.items():
                    metric.add_metric([*labels, one], number)
            elif found is not None:
                metric.add_metric(labels, found)
        yield metric
