"""What an OSError says: no reason is lost on its way to whoever reads it."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ast
import asyncio
import errno
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

import mcrd
from mcrd.daemon.executor import Estate
from mcrd.errors import named, words
from mcrd.planning.plan import Open
from mcrd.planning.resources import (
    Egress,
    Ingress,
    Membership,
    Reception,
    Resource,
    Sending,
    Worker,
)

GROUP = ip_address("239.1.1.1")
GONE = "gone0"
SENDING = Sending(GONE, 4000, ip_address("10.0.0.1"), ttl=1, loop=True)
EGRESS = Egress(Worker(Ingress("r0", 2)), "a", SENDING, GROUP, 5000)
# In dataplane/ and the sandbox, numbers come from C and messages travel; nothing is imported there.
OWN_WORDS = ("dataplane/", "errors.py")


@pytest.mark.parametrize(
    ("error", "text", "with_name"),
    [
        (OSError(errno.ENODEV, os.strerror(errno.ENODEV)), "No such device", " (ENODEV)"),
        (OSError(errno.ENODEV, "r0 is another interface now"), "r0 is another", " (ENODEV)"),
        (OSError("no interface with this name"), "no interface with this name", "this name"),
        (OSError(), "OSError", "OSError"),
        (TimeoutError(), "TimeoutError", "TimeoutError"),
        (TimeoutError("timed out"), "timed out", "timed out"),
        (OSError(-2, "Name or service not known"), "Name or service", "not known"),
    ],
)
def test_there_is_always_a_reason(error: OSError, text: str, with_name: str) -> None:
    assert words(error).startswith(text)
    assert named(error).startswith(words(error))
    assert named(error).endswith(with_name)


@pytest.mark.parametrize(
    "resource", [EGRESS, Membership(GONE, 4000, GROUP), Reception(GONE, 4000, GROUP)], ids=str
)
def test_an_interface_that_goes_between_plan_and_apply_is_named(resource: Resource) -> None:
    async def scenario() -> str:
        estate = Estate(lambda: None)
        await estate.apply([Open(resource)], {})
        return estate.actual({}).failures[resource].reason

    assert asyncio.run(scenario()) == f"{GONE} has gone (ENODEV)"


def test_all_words_of_errors_come_from_one_place() -> None:
    """An attribute `strerror` is None, and os.strerror() says Success, where there is no number."""
    root = Path(mcrd.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        if not str(path.relative_to(root)).startswith(OWN_WORDS)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "strerror"
        and isinstance(node.value, ast.Name)
        and node.value.id == "error"
    ]
    assert found == []


def test_where_nothing_can_be_opened_any_more_the_daemon_ends_with_a_line() -> None:
    """Not even modules can be imported."""
    code = (
        "import resource; from mcrd.cli.mcrd import main;"
        " resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); raise SystemExit(main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("mcrd: cannot start: Too many open files (EMFILE); raise the")
    assert done.stderr.count("\n") == 1
