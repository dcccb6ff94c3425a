"""docs/security.md says which layers stop an attempt that no other would: it is still so."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from tests.sandbox import harness, matrix


@pytest.mark.parametrize("engine", matrix.ENGINES)
def test_the_page_has_every_attempt(engine: str) -> None:
    assert set(matrix.documented(engine)) == set(matrix.ENGINES[engine])


@pytest.mark.root
@pytest.mark.long
@pytest.mark.parametrize("engine", matrix.ENGINES)
def test_the_page_names_all_that_one_layer_alone_stops(engine: str) -> None:
    with harness.quiet_network() as (triangle, helper):
        found = matrix.measure(triangle, helper, lambda _: None, engine)
    page = matrix.documented(engine)
    # On another kernel an attempt may fail for a reason of its own: less gets through then.
    more = {
        name: layers for name, layers in found.without.items() if not set(layers) <= page[name][0]
    }
    assert more == {}
