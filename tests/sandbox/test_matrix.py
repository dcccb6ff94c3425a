"""docs/security.md says which layers stop an attempt that no other would: it is still so."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from tests.sandbox import harness, matrix


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """For each attempt of the page's table, its second and third column."""
    rows = [line.strip("|\n").split("|") for line in matrix.written().splitlines()[2:]]
    return {
        name.strip(): (
            {layer.strip() for layer in without.split(",") if layer.strip()},
            {layer.strip() for layer in alone.split(",") if layer.strip()},
        )
        for name, without, alone in rows
    }


def test_the_page_has_every_attempt() -> None:
    assert set(documented()) == set(matrix.LINES)


@pytest.mark.root
@pytest.mark.long
def test_the_page_names_all_that_one_layer_alone_stops() -> None:
    with harness.quiet_network() as (triangle, helper):
        found = matrix.measure(triangle, helper, lambda _: None)
    page = documented()
    # On another kernel an attempt may fail for a reason of its own: less gets through then.
    more = {
        name: layers for name, layers in found.without.items() if not set(layers) <= page[name][0]
    }
    assert more == {}
