"""Descriptors and memory: what there is, against what the rules take."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re

from mcrd.config.problems import key_text
from mcrd.doctor.demand import Demand
from mcrd.doctor.finding import Finding, in_unit, setting, unreadable
from mcrd.host.procfs import Host, Running

UNLIMITED = 1 << 63
INSTANCES, WATCHES = 1024, 65536  # of inotify, for a user
SMALL_RING = 8 << 20


def descriptors(host: Host, running: Running, demand: Demand) -> Finding:
    """Check the limit on open files: the hard one, to which the daemon raises its own."""
    check = "descriptors"
    if running.status is not None and running.pid is None:
        return unreadable(check, "the daemon's limits", "it is in another pid namespace")
    path = f"proc/{running.pid or 'self'}/limits"
    text = "\n".join(host.lines(path))
    found = re.search(r"^Max open files +\S+ +(\S+)", text, re.MULTILINE)
    if found is None:
        return unreadable(check, f"/{path}", "permission denied, or no such process")
    limit = UNLIMITED if found[1] == "unlimited" else int(found[1])
    need = demand.descriptors(host.sysctl("net.ipv4.igmp_max_memberships") or 20)
    whose = "the daemon may have" if running.pid else "this shell may have"
    most = need + demand.members()
    more = f", and up to {most} with all members" if most > need else ""
    value = f"{whose} {found[1]}, the rules take about {need}{more}"
    why = "every output takes one for each worker of its input interface"
    enough = max(131072, 1 << (need + most - 1).bit_length())  # no less than mcrd's unit says
    remedy = in_unit(f"LimitNOFILE={enough}")
    if limit >= most:
        return Finding(check, "ok", value)
    if limit >= need:
        why = "each member of a range, and each source that is kept, takes one for each output"
        return Finding(check, "ok", value, why, remedy)
    if running.pid:
        return Finding(check, "trouble", value, why, remedy)
    why += "; no daemon answers, and the service has a limit of its own"
    return Finding(check, "unknown", value, why, remedy)


def inotify(host: Host, running: Running) -> Finding:
    """Check instances of inotify: each user has so many, and containers share those of root."""
    check = "inotify"
    instances = host.lowest("fs.inotify.max_user_instances", "user.max_inotify_instances")
    watches = host.lowest("fs.inotify.max_user_watches", "user.max_inotify_watches")
    if instances is None or watches is None:
        return unreadable(check, "/proc/sys/fs/inotify", "not there")
    limit, name = instances
    uid = os.geteuid() if running.uid is None else running.uid
    held = host.inotify(uid)
    used = sum(held.values())
    value = f"the user {uid} has {used} of {limit} instances, as far as can be seen"
    why = "a saved rule file is noticed some seconds later"
    remedy = setting(name, max(INSTANCES, 2 * limit))
    if watches[0] == 0:
        value, remedy = f"{value}, and may watch nothing", setting(watches[1], WATCHES)
    elif trouble := running.status and running.status.watch_trouble:
        value = f"{value}; the daemon {trouble}"
        if "inotify watch" in trouble:
            remedy = setting(watches[1], max(WATCHES, 2 * watches[0]))
        elif "inotify instance" not in trouble:
            remedy = ""
    elif used < limit or running.status is not None:
        return Finding(check, "ok", value)
    return Finding(check, "trouble", value, why, remedy)


def memory(host: Host, running: Running, demand: Demand) -> Finding:
    """Check memory: rings are never swapped. Running workers have theirs already."""
    check, why = "memory", "an interface without memory for its rings is not read"
    sizes = dict(line.split(":", 1) for line in host.lines("proc/meminfo") if ":" in line)
    try:
        available = int(sizes["MemAvailable"].split()[0]) << 10
    except (KeyError, ValueError, IndexError):
        return unreadable(check, "/proc/meminfo", "no MemAvailable")
    takes = {
        name: demand.memory(name)
        * max(0, demand.settings(name).workers - running.workers.get(name, 0))
        for name in demand.inputs()
    }
    total = sum(takes.values())
    value = f"{_mib(available)} available"
    if total == 0:
        return Finding(check, "ok", f"{value}, the workers have theirs")
    value += f", workers and their rings take {_mib(total)}"
    if total <= available:
        return Finding(check, "ok", value)
    most = max(takes, key=lambda name: takes[name])
    if demand.settings(most).ring_size > SMALL_RING:
        size, table = _mib(SMALL_RING), f"[{key_text(('interfaces', most))}]"
        remedy = f'ring_size = "{size}" in the rule file, under {table}'
    else:
        remedy = f"fewer workers of {most}, or more memory"
    return Finding(check, "trouble", value, why, remedy)


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
