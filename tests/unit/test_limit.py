"""A test that waits without end fails, and those after it run."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

PROGRAM = """
import sys
import pytest
from tests import conftest
conftest.LIMIT = 1
options = ["-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", sys.argv[1], sys.argv[1]]
sys.exit(pytest.main(options, plugins=[conftest]))
"""

TESTS = """
import time

def test_without_end():
    while True:
        time.sleep(0.01)

def test_after_it():
    pass
"""


def test_a_test_without_end_fails_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "TimeoutError: the test took more than 1 s" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
