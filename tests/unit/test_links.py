"""Links: what netlink refuses, whatever its class, is said, and tried again."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from mcrd.host.links import Links
from mcrd.host.netlink import os_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

TIMEOUT = 10.0  # seconds


async def until(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not predicate():  # noqa: ASYNC110  # nobody sets an event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("error", "number", "words"),
    [
        (NetlinkError(16), 16, "netlink: Device or resource busy"),
        (NetlinkDumpInterrupted(), 5, "netlink: dump interrupted"),
        (OSError(105, None), 105, "netlink: No buffer space available"),
        (OSError(9, "Bad file descriptor"), 9, "Bad file descriptor"),
    ],
)
def test_errors_of_netlink_are_errors_of_the_system(
    error: Exception, number: int, words: str
) -> None:
    with pytest.raises(OSError) as caught, os_errors():  # noqa: PT011  # the errno is below
        raise error
    assert (caught.value.errno, caught.value.strerror) == (number, words)


def test_what_cannot_be_read_is_read_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By NetlinkError, which is no OSError, and by a bug: at the start and later."""
    real = Links._ask  # noqa: SLF001
    errors: list[Exception] = [NetlinkError(16)]

    async def ask(queries: AsyncIPRoute) -> Any:
        if errors:
            raise errors.pop()
        return await real(queries)

    monkeypatch.setattr(Links, "_ask", staticmethod(ask))

    async def scenario() -> None:
        changed: list[frozenset[str]] = []
        links = Links(changed.append)
        await links.start()
        assert "lo" in links.now
        links.now = {}
        errors.extend([NetlinkError(16), KeyError("a bug"), NetlinkDumpInterrupted()])
        links._dirty.set()  # noqa: SLF001
        await until(lambda: changed)
        assert "lo" in links.now
        await links.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
    said = "\n".join(caplog.messages)
    assert "cannot read the interfaces: netlink: Device or resource busy" in said
    assert "reading interfaces ended: KeyError('a bug')" in said


def test_what_cannot_be_heard_is_heard_by_another_socket(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = AsyncIPRoute.get
    errors: list[Exception] = [NetlinkError(104), ValueError("a bug")]
    heard: list[AsyncIPRoute] = []

    async def get(self: AsyncIPRoute, msg_seq: int = 0, **rest: Any) -> AsyncIterator[Any]:
        if msg_seq == 0:  # events
            heard.append(self)
            if errors:
                raise errors.pop()
        async for message in real(self, msg_seq, **rest):
            yield message

    def fails(_self: AsyncIPRoute) -> None:
        raise OSError(105, None)

    async def scenario() -> None:
        links = Links(lambda _: None)
        await links.start()
        await until(lambda: len(heard) == 3)
        assert len(set(heard)) == 3
        real_close = AsyncIPRoute.close
        monkeypatch.setattr(AsyncIPRoute, "close", fails)
        last = (links._events, links._queries)  # noqa: SLF001
        await links.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for sock in last:
            real_close(sock)

    monkeypatch.setattr(AsyncIPRoute, "get", get)
    asyncio.run(scenario())
    said = "\n".join(caplog.messages)
    assert "netlink: Connection reset by peer; reading all interfaces anew" in said
    assert "hearing of interfaces ended: ValueError('a bug')" in said
