"""What is counted and adds up: over workers, over their restarts, and on the control socket."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self


@dataclass(slots=True)
class Count:
    """Fields that add up: numbers, numbers by name, other counts. Names of `formats` are united."""

    HIGHEST: ClassVar[frozenset[str]] = frozenset()
    """Fields whose higher value stays."""

    @classmethod
    def numbers(cls, found: Any) -> Self:
        """The count with the whole numbers that `found`, of C, has by the same names."""
        names = (each.name for each in fields(cls) if each.type == "int")
        return cls(**{name: getattr(found, name) for name in names})

    def add(self, other: Self) -> None:
        """Add what another worker has counted, or one before."""
        for name in (each.name for each in fields(self)):
            ours, theirs = getattr(self, name), getattr(other, name)
            if isinstance(ours, Count):
                ours.add(theirs)
            elif isinstance(ours, dict):
                for key, number in theirs.items():  # another version may know other keys
                    ours[key] = ours.get(key, 0) + number
            else:
                setattr(self, name, self._sum(name, ours, theirs))

    def _sum(self, name: str, ours: Any, theirs: Any) -> Any:
        if isinstance(ours, list | tuple):  # taken over, it is a tuple
            return sorted({*ours, *theirs})
        if isinstance(theirs, Count):  # and ours is None: nobody looked
            ours = type(theirs)()
            ours.add(theirs)
            return ours
        if theirs is None:
            return ours
        return max(ours, theirs) if name in self.HIGHEST else ours + theirs


@dataclass(slots=True)
class Traffic(Count):
    """Packets are datagrams; bytes are payload, or of interfaces whole frames."""

    packets: int = 0
    bytes: int = 0


@dataclass(slots=True)
class PerSecond(Count):
    """A second of the last minute."""

    packets: float = 0.0
    bytes: float = 0.0


@dataclass(slots=True)
class Peak(Count):
    """The most packets in 10 ms of the last second and minute.

    Those of several workers are added, which need not have been at one time.
    """

    second: int = 0
    minute: int = 0


@dataclass(slots=True)
class Rate(Count):
    """How much flows: in the last whole second, and in a second of the last minute."""

    second: Traffic = field(default_factory=Traffic)
    minute: PerSecond = field(default_factory=PerSecond)
    peak: Peak = field(default_factory=Peak)

    def rounded(self) -> Rate:
        """For people; one packet in a minute, 0.016 in a second, is not 0."""
        minute = PerSecond(round(self.minute.packets, 3), round(self.minute.bytes, 3))
        return Rate(self.second, minute, self.peak)


@dataclass(slots=True)
class Last(Count):
    """The last of some faults: how many were in its second, and when it was, from the epoch."""

    count: int = 0
    at: float | None = None

    def add(self, other: Last) -> None:
        """Take the later one."""
        if other.at is not None and (self.at is None or other.at > self.at):
            self.count, self.at = other.count, other.at


@dataclass(slots=True)
class TsCount(Count):
    """What was found in packets of MPEG-TS, ISO/IEC 13818-1. Times are in seconds.

    `continuity_errors` are those of `by_pid` together. `duplicates` were allowed to come twice.
    `pcr_interval_s` is the longest, `pcr_jitter_s` smoothed as that of RTP.
    """

    HIGHEST = frozenset(("pcr_interval_s", "pcr_jitter_s", "pcr_jitter_most_s"))

    packets: int = 0
    continuity_errors: int = 0
    duplicates: int = 0
    sync_errors: int = 0
    transport_errors: int = 0
    pcr_jumps: int = 0
    pcr_interval_s: float = 0.0
    pcr_jitter_s: float = 0.0
    pcr_jitter_most_s: float = 0.0
    by_pid: dict[str, int] = field(default_factory=dict)
    last_error: Last = field(default_factory=Last)


@dataclass(slots=True)
class MergeCount(Count):
    """How one of several inputs of a stream fares that are merged. Datagrams; times in seconds.

    Of those `received`, the `first` ones no other input had brought before, and they were relayed.
    The `second` ones another had, the `repeated` ones this one had. Of the first ones, those
    `only_here` no other brought after that; `lost` are those that others brought and this one did
    not. Both are known after four seconds; those `shared`, which another brought too, at once.
    The `late` ones another had brought over two seconds before, as far as that is remembered.
    Of the second ones, what `differs` has the number of another, and not the content. `forgotten`
    are those that were remembered for less than half a second, as there were too many.
    The skew is how much later than the first the second ones came; half of them no later than p50.
    Where they leave in order, `held` of the first ones wait now. Those `reordered` came after
    others and left before them; those `hurried` left before their time, as there was no room.
    """

    HIGHEST = frozenset(("skew_p50_s", "skew_most_s"))

    received: int = 0
    first: int = 0
    second: int = 0
    repeated: int = 0
    differs: int = 0
    only_here: int = 0
    lost: int = 0
    forgotten: int = 0
    shared: int = 0
    late: int = 0
    held: int = 0
    reordered: int = 0
    hurried: int = 0
    skew_p50_s: float = 0.0
    skew_most_s: float = 0.0


@dataclass(slots=True)
class InspectCount(Count):
    """What the payloads of a rule say of the network before this host. Times are in seconds.

    Of all datagrams that were `inspected`, `other` are not of the format. `not_inspected` are of
    flows beyond the bound. `lost` have been given up, `missing` may still come: datagrams, or
    messages of MoldUDP64. `gaps` is how often some were missing, `longest_gap` how many at most.
    `jitter_s` is that of RFC 3550, section 6.4.1, where it is worst.
    """

    HIGHEST = frozenset(("longest_gap", "longest_silence_s", "jitter_s", "jitter_most_s"))

    inspected: int = 0
    not_inspected: int = 0
    other: int = 0
    lost: int = 0
    missing: int = 0
    gaps: int = 0
    reordered: int = 0
    repeated: int = 0
    stray: int = 0
    resets: int = 0
    changes: int = 0
    messages: int = 0
    longest_gap: int = 0
    longest_silence_s: float = 0.0
    jitter_s: float = 0.0
    jitter_most_s: float = 0.0
    flows: int = 0
    formats: list[str] = field(default_factory=list)
    last_lost: Last = field(default_factory=Last)
    mpeg_ts: TsCount = field(default_factory=TsCount)

    def end(self) -> None:
        """The worker has the rule no more: nothing comes that is missing."""
        self.lost += self.missing
        self.missing = self.flows = 0
        self.jitter_s = self.mpeg_ts.pcr_jitter_s = 0.0
