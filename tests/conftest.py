"""Fixtures that read as sentences, and the rules about which tests run where.

Most tests on real packets start from one of these (drawn in tests/lab/scenarios.py too):

    triangle:
    +--------+ s0          r0 +-------+ r1          k0 +------+
    | source |----------------| relay |----------------| sink |
    +--------+ .1          .2 +-------+ .1          .2 +------+
               10.1.0.0/24              10.2.0.0/24
               fd01::/64                fd02::/64

    fork: the same, and relay (r2, 10.3.0.1) -- (k1, 10.3.0.2) sink2, fd03::/64.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.lab import (
    Fork,
    Lab,
    Triangle,
    build_fork,
    build_triangle,
    leftovers,
    sanitized,
    wait_for,
)
from tests.lab.processes import SLOWNESS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import FrameType

    from xdist.remote import Producer

    from tests.lanes import Lanes

# Seconds, of which no test needs a tenth.
LIMIT, LIMIT_LONG = int(300 * SLOWNESS), int(1800 * SLOWNESS)

# No database: the examples that it keeps would be root's under sudo.
settings.register_profile("mcrd", database=None, deadline=None)
settings.load_profile("mcrd")


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return random.Random(seed)


@pytest.fixture(params=["io_uring", "poll"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule files of the lab name this engine."""
    monkeypatch.setenv("MCRD_TEST_ENGINE", request.param)


@functools.cache
def why_no_namespaces() -> str | None:
    """Why the tests marked `root` cannot run; None when they can."""
    if os.geteuid() != 0:
        return "needs root: `sudo make test` runs the network tests too"
    tried = subprocess.run(
        ["unshare", "--net", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        return f"no network namespaces here: {tried.stderr.strip()}"
    return None


def pytest_configure(config: pytest.Config) -> None:
    # In order, as after an interrupt: labs and directories go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Hypothesis keeps other things too, in the working directory unless told.
    directory = tempfile.TemporaryDirectory(prefix="mcrd-hypothesis-")
    config.add_cleanup(directory.cleanup)
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", directory.name)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked `long` as well")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    from tests.lanes import Lanes  # noqa: PLC0415  # only where there is pytest-xdist

    config.option.loadscopereorder = False
    return Lanes(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.root)
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="long: `make test-full` runs it"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and (reason := why_no_namespaces()):
        if os.environ.get("CI"):
            pytest.fail(f"CI has to run this: {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Ends a test that waits without end: it fails, with a traceback of where it stood."""
    limit = LIMIT_LONG if item.get_closest_marker("long") else LIMIT

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took more than {limit} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows what the daemons said when a test fails."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if isinstance(lab, Lab) and report.failed and report.when == "call":
        for daemon in lab.daemons:
            report.sections.append((f"mcrd on {daemon.host.name}", daemon.log()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reason = why_no_namespaces()
    count = sum("root" in getattr(report, "keywords", ()) for report in skipped)
    if reason and count:
        terminalreporter.write_line(f"{count} network tests were skipped: {reason}", yellow=True)


@pytest.fixture(scope="session", autouse=True)
def _nothing_remains() -> Iterator[None]:
    """Fails the run when a process of a lab outlives its lab."""
    yield
    try:
        wait_for(lambda: not leftovers(), "the end of every lab process", 5.0)
    except TimeoutError:
        pytest.fail("still running after their lab:\n" + "\n".join(leftovers()), pytrace=False)


@pytest.fixture(autouse=True)
def _nothing_reported() -> Iterator[None]:
    """Fails a test after which a sanitizer has something to say: `make test-sanitized`."""
    yield
    if found := sanitized.reports():
        pytest.fail("\n".join(found), pytrace=False)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab."""
    with Lab() as made:
        yield made


@pytest.fixture
def triangle(lab: Lab) -> Triangle:
    """source -- relay -- sink."""
    return build_triangle(lab)


@pytest.fixture
def fork(lab: Lab) -> Fork:
    """source -- relay -- sink and sink2."""
    return build_fork(lab)
