"""Which packets of its rule an output sends. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mcrd.config.overlap import Spans, common, spans
from mcrd.model import Input, Network, Output
from mcrd.planning.broadcast import limit
from mcrd.planning.links import Link


@dataclass(frozen=True, slots=True)
class Portion:
    """At most `limit` packets a second, None: all; of those of `sources`, one in `sample`.

    Sources are runs of addresses; none: any.
    """

    limit: int | None = None
    sample: int = 1
    sources: Spans = ()


ALL: Final = Portion()


def portion(output: Output, link: Link | None) -> Portion:
    """Which packets of its rule the output sends on the link."""
    return _portion(limit(output, link), output.sample, output.sources, output.exclude)


def sent_from(given: Input, output: Output) -> Spans | None:
    """The sources whose packets an output sends, of those that the input takes; None: all."""
    lists = (given.sources, given.exclude, output.sources, output.exclude)
    return _sent_from(given.address.version, *lists) if any(lists) else None


@lru_cache(maxsize=256)
def _sent_from(version: int, *lists: tuple[Network, ...]) -> Spans:
    return tuple(common(spans(version, *lists[:2]), spans(version, *lists[2:])))


@lru_cache(maxsize=256)
def _portion(
    most: int | None, sample: int, sources: tuple[Network, ...], exclude: tuple[Network, ...]
) -> Portion:
    """The same object for outputs that send alike: thousands of them often do."""
    if not sources and not exclude:
        return Portion(most, sample)
    return Portion(most, sample, spans((sources or exclude)[0].version, sources, exclude))
