"""What the service manager is about to do with this service (systemctl(1), list-jobs)."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import asyncio

PATIENCE = 2.0  # seconds


async def is_restarted() -> bool:
    """Whether it starts the service again after this end; False where it does not say."""
    try:
        unit = _unit()
        async with asyncio.timeout(PATIENCE):
            asked = await asyncio.create_subprocess_exec(
                *("systemctl", "list-jobs", "--no-legend", "--plain", unit),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            answer, _ = await asked.communicate()
    except (OSError, TimeoutError):
        return False
    jobs = (line.split() for line in answer.decode(errors="replace").splitlines())
    return any(job[1:3] == [unit, "restart"] for job in jobs)


def _unit() -> str:
    with open("/proc/self/cgroup", encoding="utf-8") as cgroup:
        return cgroup.read().strip().rpartition("/")[2]
