"""Watch: every way to save a file leads to one call, and what is no save to none."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mcrd.daemon.rulewatch import LONGEST, SETTLE, Watch
from tests.lab import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

TIMEOUT = 10.0  # seconds until the call that has to come
OFTEN, NEVER = 0.05, 3600.0  # seconds between two looks
QUIET = 3 * SETTLE  # without a call for so long, no other comes


class Calls:
    """What is called, and how often it was."""

    watch: Watch

    def __init__(self) -> None:
        self.count = 0
        self.threads: set[int] = set()
        self._come = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self.threads.add(threading.get_ident())
        self._come.set()

    async def one(self) -> None:
        """Waits for a call, and for a while in which there is no other."""
        await asyncio.wait_for(self._come.wait(), TIMEOUT)
        await self.none()

    async def next(self) -> None:
        """Waits for a call."""
        await asyncio.wait_for(self._come.wait(), TIMEOUT)
        self._come.clear()

    async def none(self) -> None:
        """Waits until there has been no call for a while."""
        self._come.clear()
        while True:
            try:
                await asyncio.wait_for(self._come.wait(), QUIET)
            except TimeoutError:
                return
            self._come.clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A rule file, with others beside it."""
    path = tmp_path / "mcr.toml"
    path.write_text("ttl = 1\n", encoding="utf-8")
    (tmp_path / "other.toml").write_text("ttl = 2\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def watching(
    files: Iterable[Path],
    patterns: Iterable[str] = (),
    every: float = NEVER,
    within: contextlib.AbstractContextManager[None] | None = None,
) -> Iterator[Calls]:
    """The calls of a watch of these files, which is started `within`."""
    calls = Calls()
    watch = calls.watch = Watch(calls, every=every)
    with within or contextlib.nullcontext():
        watch.start(map(str, files), patterns)
    try:
        yield calls
    finally:
        watch.stop()


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Let the test run in a loop of its own."""

    @functools.wraps(test)
    def run(*arguments: object, **fixtures: object) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


def calls_of(file: Path, save: Callable[[Path], None]) -> int:
    """How often a watch of the file calls when it is saved in this way."""

    async def scenario() -> int:
        with watching([file]) as calls:
            await asyncio.to_thread(save, file)
            await calls.one()
        assert calls.threads == {threading.get_ident()}
        return calls.count

    return asyncio.run(scenario())


def calls_without_a_save(file: Path, touch: Callable[[Path], None]) -> int:
    """How often it calls for what is none; a save at the end shows that it listened all along."""

    async def scenario() -> int:
        with watching([file]) as calls:
            await asyncio.to_thread(touch, file)
            await calls.none()
            before = calls.count
            await asyncio.to_thread(in_place, file)
            await calls.one()
            assert calls.count == before + 1
        return before

    return asyncio.run(scenario())


# Ways to save.


def in_place(file: Path) -> None:
    file.write_text("ttl = 8\n", encoding="utf-8")


def in_pieces(file: Path) -> None:
    with file.open("a", encoding="utf-8") as stream:
        for number in range(100):
            stream.write(f"# {number}\n")
            stream.flush()
            os.fsync(stream.fileno())


def twice_in_a_row(file: Path) -> None:
    in_place(file)
    in_place(file)


def sed(file: Path) -> None:
    subprocess.run(["sed", "-i", "s/ttl = 1/ttl = 8/", str(file)], check=True)


def cp(file: Path) -> None:
    subprocess.run(["cp", str(file.parent / "other.toml"), str(file)], check=True)


def rename_over(file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_text("ttl = 8\n", encoding="utf-8")
    new.replace(file)


def rename_from_elsewhere(file: Path) -> None:
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "new").write_text("ttl = 8\n", encoding="utf-8")
    (elsewhere / "new").replace(file)


def with_a_backup(file: Path) -> None:
    """As vim does it: the old file goes to another name, and a new one is written."""
    backup = file.with_name(file.name + "~")
    file.replace(backup)
    file.write_text("ttl = 8\n", encoding="utf-8")
    backup.unlink()


def anew(file: Path) -> None:
    file.unlink()
    file.write_text("ttl = 8\n", encoding="utf-8")


def delete(file: Path) -> None:
    file.unlink()


def install(file: Path) -> None:
    subprocess.run(["install", str(file.parent / "other.toml"), str(file)], check=True)


def hard_link(file: Path) -> None:
    file.unlink()
    os.link(file.parent / "other.toml", file)


def symlink(file: Path) -> None:
    new = file.with_suffix(".link")
    new.symlink_to("other.toml")
    new.replace(file)


@pytest.mark.parametrize(
    "save",
    [
        in_place,
        in_pieces,
        twice_in_a_row,
        sed,
        cp,
        rename_over,
        rename_from_elsewhere,
        with_a_backup,
        anew,
        delete,
        install,
        hard_link,
        symlink,
    ],
)
def test_a_save_is_one_call(file: Path, save: Callable[[Path], None]) -> None:
    assert calls_of(file, save) == 1


def test_kubernetes_swaps_the_directory_that_the_file_is_in(tmp_path: Path) -> None:
    def version(number: int) -> Path:
        directory = tmp_path / f"..2026_11_{number}"
        directory.mkdir()
        (directory / "mcr.toml").write_text(f"ttl = {number}\n", encoding="utf-8")
        return directory

    def swap(_file: Path) -> None:
        (tmp_path / "..data_tmp").symlink_to(version(2).name)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        shutil.rmtree(tmp_path / "..2026_11_1")

    (tmp_path / "..data").symlink_to(version(1).name)
    file = tmp_path / "mcr.toml"
    file.symlink_to("..data/mcr.toml")
    assert calls_of(file, swap) == 1
    assert file.read_text(encoding="utf-8") == "ttl = 2\n"


def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    assert calls_of(tmp_path / "mcr.toml", in_place) == 1


@in_a_loop
async def test_every_save_of_several_is_noticed(file: Path) -> None:
    with watching([file]) as calls:
        for number, save in enumerate((in_place, rename_over, anew, sed), start=1):
            await asyncio.to_thread(save, file)
            await calls.one()
            assert calls.count == number


@in_a_loop
async def test_a_file_that_is_written_without_end_is_read_meanwhile(file: Path) -> None:
    """Each event comes before the flock of those before it is over."""

    calls = Calls()
    watch = Watch(calls, every=NEVER)
    watch.start([str(file)])
    ended = threading.Event()
    written = [time.monotonic()]

    def write() -> None:
        while not ended.wait(SETTLE / 3):
            in_place(file)
            written.append(time.monotonic())

    writing = asyncio.ensure_future(asyncio.to_thread(write))
    try:
        began = time.monotonic()
        for _ in range(2):
            await calls.next()
        took = time.monotonic() - began
        called = calls.count
    finally:
        ended.set()
        await writing
        watch.stop()
    # It is read, but not for every event. A busy machine may make pauses, which end a flock.
    pauses = sum(later - sooner > SETTLE / 2 for sooner, later in pairwise(written))
    assert pauses or (took > 1.5 * LONGEST and len(written) > 10)
    assert called == 2


# What is no save.


def read(file: Path) -> None:
    for _ in range(3):
        file.read_bytes()


def set_times(file: Path) -> None:
    os.utime(file, (0, 0))


def set_mode(file: Path) -> None:
    file.chmod(0o600)


def save_a_neighbour(file: Path) -> None:
    in_place(file.parent / "other.toml")
    rename_over(file.parent / "other.toml")


def save_a_namesake_further_down(file: Path) -> None:
    (file.parent / "below").mkdir()
    in_place(file.parent / "below" / file.name)


def save_what_begins_alike(file: Path) -> None:
    in_place(file.with_name(file.name + ".swp"))
    in_place(file.with_name("x" + file.name))


@pytest.mark.parametrize(
    "touch",
    [
        read,
        set_times,
        set_mode,
        save_a_neighbour,
        save_a_namesake_further_down,
        save_what_begins_alike,
    ],
)
def test_what_is_no_save_is_no_call(file: Path, touch: Callable[[Path], None]) -> None:
    assert calls_without_a_save(file, touch) == 0


@in_a_loop
async def test_reading_the_file_when_called_is_no_call_again(file: Path) -> None:
    calls = Calls()

    def reload() -> None:
        file.read_bytes()
        calls()

    watch = Watch(reload, every=NEVER)
    watch.start([str(file)])
    try:
        await asyncio.to_thread(in_place, file)
        await calls.one()
    finally:
        watch.stop()
    assert calls.count == 1


# Several files, and those that come to match a pattern.


def calls_for(
    files: list[Path], patterns: list[str], change: Callable[[], object], last: Path
) -> int:
    """How often it calls for the change; saving `last` shows that it listened all along."""

    async def scenario() -> int:
        with watching(files, patterns) as calls:
            await asyncio.to_thread(change)
            await calls.none()
            before = calls.count
            await asyncio.to_thread(in_place, last)
            await calls.one()
            assert calls.count == before + 1
        return before

    return asyncio.run(scenario())


def test_every_file_is_watched_wherever_it_is(file: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / "a.toml"
    assert calls_for([file, other], [], lambda: in_place(other), file) == 1


@pytest.mark.parametrize(
    ("name", "calls"), [("new.toml", 1), ("new.toml.swp", 0), ("new.conf", 0), (".hidden", 0)]
)
def test_a_file_that_comes_to_match_a_pattern(file: Path, name: str, calls: int) -> None:
    directory = file.parent / "mcr.d"
    directory.mkdir()
    pattern = str(directory / "*.toml")
    assert calls_for([file], [pattern], lambda: in_place(directory / name), file) == calls


def test_a_file_that_ceases_to_match_a_pattern(file: Path) -> None:
    directory = file.parent / "mcr.d"
    directory.mkdir()
    in_place(directory / "a.toml")
    pattern = str(directory / "*.toml")
    assert calls_for([file], [pattern], (directory / "a.toml").unlink, file) == 1


@in_a_loop
async def test_what_is_watched_can_change(file: Path) -> None:
    directory = file.parent / "mcr.d"
    directory.mkdir()
    other = directory / "a.toml"
    with watching([file, other]) as calls:
        calls.watch.start([str(file)])
        await asyncio.to_thread(in_place, other)
        await calls.none()
        assert calls.count == 0
        calls.watch.start([str(other)])
        await asyncio.to_thread(in_place, file)
        await calls.none()
        assert calls.count == 0
        await asyncio.to_thread(in_place, other)
        await calls.one()
        assert calls.count == 1


# Beginning and end.


@in_a_loop
async def test_after_stop_there_is_no_call(file: Path) -> None:
    with watching([file]) as calls:
        await asyncio.to_thread(in_place, file)
    await asyncio.to_thread(in_place, file)
    await calls.none()
    assert calls.count == 0


@in_a_loop
async def test_it_can_be_started_again_and_twice(file: Path) -> None:
    with watching([file]) as calls:
        calls.watch.stop()
        calls.watch.stop()
        calls.watch.start([str(file)])
        calls.watch.start([str(file)])
        await asyncio.to_thread(in_place, file)
        await calls.one()
    assert calls.count == 1


@in_a_loop
async def test_a_thread_that_has_ended_begins_anew(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watching([file]) as calls:
        watch = calls.watch
        watch.look()
        watch._poll.stop(TIMEOUT)  # noqa: SLF001
        watch._retry = 0.0  # noqa: SLF001
        assert caplog.messages == []
        watch.look()
        assert caplog.messages == ["the watch of the rule files has ended; restarting it"]
        await calls.one()  # for what came meanwhile
        await asyncio.to_thread(in_place, file)
        await calls.one()
        watch.look()
    assert calls.count == 2
    assert len(caplog.messages) == 1


@in_a_loop
async def test_stop_leaves_no_thread_and_no_descriptor(file: Path) -> None:
    before = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        watch = Watch(lambda: None)
        watch.start([str(file)])
        watch.stop()
    assert (set(threading.enumerate()), len(os.listdir("/proc/self/fd"))) == before


# Where the kernel tells nothing.


@contextlib.contextmanager
def no_descriptors(left: int = 0) -> Iterator[None]:
    """None can be opened within, or so many."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(left + 1)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    "save", [in_place, sed, rename_over, with_a_backup, anew, delete, hard_link, symlink, set_mode]
)
@in_a_loop
async def test_without_inotify_a_save_is_one_call(file: Path, save: Callable[[Path], None]) -> None:
    with watching([file], every=OFTEN, within=no_descriptors()) as calls:
        await asyncio.to_thread(save, file)
        await calls.one()
    assert calls.count == 1


@in_a_loop
async def test_without_inotify_a_pattern_is_looked_at(file: Path) -> None:
    directory = file.parent / "mcr.d"
    with watching(
        [file], [str(directory / "*.toml")], every=OFTEN, within=no_descriptors()
    ) as calls:
        directory.mkdir()
        in_place(directory / "a.toml")
        await calls.one()
        save_a_neighbour(file)
        in_place(directory / "b.conf")
        await calls.none()
        assert calls.count == 1
        (directory / "a.toml").unlink()
        await calls.one()
    assert calls.count == 2


def elsewhere(file: Path) -> Path:
    """Let the file be a symlink to another one, in another directory."""
    directory = file.parent / "elsewhere"
    directory.mkdir()
    real = directory / "real.toml"
    real.write_text("ttl = 1\n", encoding="utf-8")
    file.unlink()
    file.symlink_to(real)
    return real


@pytest.mark.parametrize("save", [in_place, rename_over])
@in_a_loop
async def test_what_makes_no_event_is_noticed(file: Path, save: Callable[[Path], None]) -> None:
    """The directory of a symlink's target is not watched: as silent as a file server."""
    real = elsewhere(file)
    with watching([file], every=OFTEN) as calls:
        await asyncio.to_thread(save, real)
        await calls.one()
    assert calls.count == 1


@in_a_loop
async def test_both_ways_together_are_one_call(file: Path) -> None:
    """However often it is looked at, a save that made an event is not noticed again."""
    with watching([file], every=0.01) as calls:
        for number in range(1, 4):
            await asyncio.to_thread(in_place, file)
            await calls.one()
            assert calls.count == number


@in_a_loop
async def test_inotify_that_comes_later_is_used(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    with watching([file], within=no_descriptors()) as calls:
        calls.watch.look()
        assert len(caplog.messages) == 1  # not yet again
        calls.watch._retry = 0.0  # noqa: SLF001
        calls.watch.look()
        await calls.one()
        in_place(file)
        await calls.one()
    assert calls.count == 2
    assert caplog.messages == [
        "cannot watch the rule files: Too many open files; they are checked every 3600 s instead",
        "the rule files are watched as they should be",
    ]


def inotify_descriptors() -> list[int]:
    """Those of this process that are instances of inotify."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").endswith("inotify"):
                found.append(int(name))
    return found


@in_a_loop
async def test_one_instance_is_enough_for_all_directories(file: Path) -> None:
    others = [file.parent / str(number) / file.name for number in range(3)]
    for other in others:
        other.parent.mkdir()

    before = len(inotify_descriptors())
    with watching([file, *others]) as calls:
        assert len(inotify_descriptors()) == before + 1
        for number, other in enumerate(others, start=1):
            in_place(other)
            await calls.one()
            assert calls.count == number
    assert len(inotify_descriptors()) == before


@in_a_loop
async def test_an_instance_that_cannot_be_read_is_replaced(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()
    before = set(inotify_descriptors()), len(os.listdir("/proc/self/fd"))
    watch = Watch(calls, every=NEVER)
    watch.start([str(file)])
    threads = threading.active_count()
    (descriptor,) = set(inotify_descriptors()) - before[0]
    directory = os.open(file.parent, os.O_RDONLY)
    os.dup2(directory, descriptor)  # read(2) says EISDIR
    os.close(directory)
    try:
        in_place(file)  # who waits for the instance wakes
        wait_for(lambda: threading.active_count() < threads, "the end of the thread")
        watch._retry = 0.0  # noqa: SLF001
        watch.look()
        assert caplog.messages == ["the watch of the rule files has ended; restarting it"]
        await calls.one()  # for what came meanwhile
        assert threading.active_count() == threads
        in_place(file)
        await calls.one()
        assert calls.count == 2
    finally:
        watch.stop()
    assert len(os.listdir("/proc/self/fd")) == before[1]


@pytest.mark.parametrize("left", [0, 1, 2])
@in_a_loop
async def test_with_too_few_descriptors_none_is_held(file: Path, left: int) -> None:
    """An instance takes three; what is short is not said to be another thing."""

    watch = Watch(lambda: None, every=NEVER)
    before = len(os.listdir("/proc/self/fd"))
    with no_descriptors(left):
        watch.start([str(file)])
        for _ in range(3):
            watch._retry = 0.0  # noqa: SLF001
            watch.look()
        assert "rule files: Too many open files;" in watch.trouble
    assert len(os.listdir("/proc/self/fd")) == before
    watch.stop()


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """None can be started within: there is no room for a stack of that size."""
    size = threading.stack_size(1 << 47)
    try:
        yield
    finally:
        threading.stack_size(size)


@in_a_loop
async def test_without_a_thread_nothing_is_left_open(file: Path) -> None:
    """Each try, also one that comes half way, gives back what it took."""
    other = file.parent / "more" / file.name
    other.parent.mkdir()

    calls = Calls()
    before = len(os.listdir("/proc/self/fd"))
    watch = Watch(calls, every=NEVER)
    with no_threads():
        watch.start([str(file)])
        for _ in range(3):
            watch._retry = 0.0  # noqa: SLF001
            watch.look()
        assert "there is no room for another thread" in watch.trouble
        assert len(os.listdir("/proc/self/fd")) == before
    try:
        watch._retry = 0.0  # noqa: SLF001
        watch.look()
        assert watch.trouble == ""
        with no_threads():
            watch.start([str(file), str(other)])
        assert "there is no room for another thread" in watch.trouble
        assert len(os.listdir("/proc/self/fd")) == before
        watch._retry = 0.0  # noqa: SLF001
        watch.look()
        assert watch.trouble == ""
        await calls.one()
        in_place(other)
        await calls.one()
        assert calls.count == 2
    finally:
        watch.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_that_may_not_be_read_is_named() -> None:
    """It can be passed, so that the file is there, but inotify(7) wants more."""
    user = os.geteuid()

    async def scenario(directory: Path) -> str:
        watch = Watch(lambda: None, every=NEVER)
        if user == 0:
            os.seteuid(65534)
        try:
            watch.start([str(directory / "mcr.toml")])
            return watch.trouble
        finally:
            watch.stop()
            os.seteuid(user)

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        in_place(directory / "mcr.toml")
        directory.chmod(0o311)
        trouble = asyncio.run(scenario(directory))
        directory.chmod(0o700)
    assert f"{directory}: Permission denied" in trouble


def test_a_directory_by_a_symlink_is_watched(file: Path) -> None:
    link = file.parent.parent / f"{file.parent.name}-link"
    link.symlink_to(file.parent)
    assert calls_of(link / file.name, in_place) == 1


WATCHES = """
import asyncio, subprocess, sys
from pathlib import Path
from tests.unit.test_rulewatch import NEVER, Calls, in_place
from mcrd.daemon.rulewatch import Watch

async def main():
    file, mounted = Path(sys.argv[1]), sys.argv[2] == "mounted"
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "none", file.parent], check=True)
    calls = Calls()
    watch = Watch(calls, every=NEVER)
    watch.start([str(file)])
    if mounted:
        subprocess.run(["umount", file.parent], check=True)
    else:
        print("ready", flush=True)
    await calls.one()
    in_place(file)
    await calls.one()
    watch.stop()
    print(calls.count)

asyncio.run(main())
"""


def test_events_that_were_lost_are_a_call(file: Path) -> None:
    """More than the kernel keeps, while nobody reads: the process is stopped."""
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
    command = [sys.executable, "-c", WATCHES, str(file), ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watches:
        assert watches.stdout is not None
        assert watches.stdout.readline() == "ready\n"
        watches.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, watches.pid, os.WSTOPPED)
        for number in range(room // 3 + 1):  # made, closed, deleted
            name = file.parent / str(number % 2)
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            name.unlink()
        watches.send_signal(signal.SIGCONT)
        assert watches.stdout.read() == "2\n"


@pytest.mark.root
def test_a_directory_whose_file_system_goes_is_watched_anew(file: Path) -> None:
    command = ["unshare", "--mount", sys.executable, "-c", WATCHES, str(file), "mounted"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "2\n"


@in_a_loop
async def test_the_loop_does_not_wait_for_a_look_at_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        begun.set()
        assert go.wait(10.0)

    monkeypatch.setattr("mcrd.daemon.polling.Poll.forget", hang)
    file = tmp_path / "mcr.toml"
    file.write_text("a")

    told = asyncio.Event()
    watch = Watch(told.set)
    watch.start([str(file)])
    async with asyncio.timeout(20.0):
        file.write_text("b")
        while not begun.is_set():  # noqa: ASYNC110  the thread makes no event of the loop
            await asyncio.sleep(0.01)
        assert not told.is_set()
        go.set()
        await told.wait()
    watch.stop()
