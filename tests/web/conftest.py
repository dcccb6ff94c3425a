"""A daemon that a test has made, and mcrd-web that asks it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.serving import HOSTILE, Answers, Web, answering, rule, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    made = Answers()
    made.set_rules({"camera": rule(packets=2000), HOSTILE: rule(packets=5)}, about=HOSTILE)
    with answering(tmp_path / "control.sock", made):
        yield made


@pytest.fixture
def web(answers: Answers, tmp_path: Path) -> Iterator[Web]:
    assert answers.stats.rules
    with serving(tmp_path / "control.sock") as started:
        started.until_it_knows()
        yield started
