"""What streams lost before: sums over workers, and words for people."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
from dataclasses import asdict
from ipaddress import ip_address

import msgspec
from mcrd.dataplane._dataplane import ffi, lib

from mcrd.daemon.index import pack, unpack
from mcrd.inspected import clock, inspected, lost_before
from mcrd.lanes.counts import RuleCount
from mcrd.lanes.inspections import FORMATS, lost, read
from mcrd.model import Input, Inspect, Rule
from mcrd.sums import InspectCount, Last, TsCount


def found() -> InspectCount:
    """What a worker may have found."""
    return InspectCount(
        inspected=1000,
        lost=12,
        missing=2,
        gaps=3,
        longest_gap=9,
        longest_silence_s=0.5,
        formats=["mpeg-ts", "rtp"],
        flows=1,
        last_lost=Last(12, time.time()),
        mpeg_ts=TsCount(
            packets=7000,
            continuity_errors=5,
            pcr_interval_s=0.04,
            pcr_jitter_s=0.00025,
            pcr_jitter_most_s=0.001,
            by_pid={"256": 5},
        ),
    )


def told(count: InspectCount) -> InspectCount:
    """The same as mcrctl gets it."""
    return msgspec.convert(msgspec.to_builtins(count), InspectCount)


def test_formats_are_those_of_the_rule_file() -> None:
    assert set(FORMATS) == {"nothing", "rtp", "mpeg-ts", "moldudp64", "sequence", "auto"}


def test_sums_over_workers() -> None:
    total, other = found(), found()
    other.last_lost, other.longest_gap, other.formats = Last(1, 5.0), 11, ["rtp"]
    other.mpeg_ts.by_pid = {"256": 1, "17": 2}
    total.add(other)
    assert (total.lost, total.missing, total.longest_gap, total.flows) == (24, 4, 11, 2)
    assert total.longest_silence_s == 0.5
    assert total.formats == ["mpeg-ts", "rtp"]
    assert total.last_lost.count == 12
    assert total.mpeg_ts.by_pid == {"256": 6, "17": 2}
    total.end()
    assert (total.lost, total.missing, total.flows) == (28, 0, 0)
    assert asdict(InspectCount())["last_lost"] == {"count": 0, "at": None}


def test_the_next_supervisor_counts_on() -> None:
    kept = unpack(msgspec.msgpack.decode(msgspec.msgpack.encode(pack(RuleCount(inspect=found())))))
    assert isinstance(kept, RuleCount)
    assert kept.inspect is not None
    assert told(kept.inspect).formats == ["mpeg-ts", "rtp"]
    kept.add(RuleCount(inspect=found()))
    assert (kept.inspect.lost, kept.inspect.mpeg_ts.by_pid) == (24, {"256": 10})
    config = Rule("a", Input("eth0", ip_address("239.1.1.1"), 1), (), inspect=Inspect("rtp"))
    assert unpack(pack(config)) == config


def test_what_a_worker_says_may_be_wrong() -> None:
    """A compromised worker writes what it likes."""
    counters = ffi.new("struct inspect_counters *")
    assert read(counters) is None
    ffi.memmove(counters, b"\xff" * ffi.sizeof(counters[0]), ffi.sizeof(counters[0]))
    count = read(counters)
    assert count is not None
    assert count.last_lost.at is None
    assert list(inspected(told(count)))
    assert msgspec.json.encode(told(count))


def test_nothing_comes_that_is_missing_when_the_stream_has_ended() -> None:
    counters = ffi.new("struct inspect_counters *")
    counters.inspected, counters.lost, counters.missing = 10, 3, 2
    counters.seen = time.time_ns()
    count = read(counters)
    assert count is not None
    assert (count.lost, count.missing, lost(counters)) == (3, 2, 3)
    counters.seen -= lib.MCRD_MISSING_NS
    count = read(counters)
    assert count is not None
    assert (count.lost, count.missing, lost(counters)) == (5, 0, 5)


def test_words() -> None:
    count = found()
    at = clock(count.last_lost.at or 0.0)
    lines = list(inspected(told(count)))
    assert lines == [
        f"lost before it came here (mpeg-ts, rtp): 12 packets at {at};"
        " 5 continuity errors in MPEG-TS; 2 missing that may still come",
        "    gaps 3, longest_gap 9",
        "    longest_silence 500 ms; 1 flow",
        "    7000 packets of MPEG-TS: no other fault; pcr_interval 40 ms, pcr_jitter 0.25 ms,"
        " pcr_jitter_most 1 ms",
        "    continuity errors by PID: 256: 5",
    ]
    count.lost = 13
    assert lost_before(told(count)).startswith(f"13 packets, the last 12 at {at}")
    count.messages = 5
    assert lost_before(told(count)).startswith("13 messages")
    assert lost_before(InspectCount()) == ""
    assert list(inspected(InspectCount())) == [
        "lost before it came here: not known, as no packet came"
    ]
    assert clock(0).startswith("19")
