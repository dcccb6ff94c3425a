"""The kernel's room for frames, fragments, filters and send buffers."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from mcrd.doctor.finding import Finding, setting, unreadable
from mcrd.host.procfs import NET, Host
from mcrd.model import Network
from mcrd.sockets import filters
from mcrd.sockets.common import attach_filter

OPTMEM = "net.core.optmem_max"
OPTMEM_ENOUGH = 131072  # the default of new kernels; twice the largest filter that there is
FRAGMENTS = "net.ipv4.ipfrag_high_thresh"
FRAGMENTS_DEFAULT = 4 << 20
SEND = "net.core.wmem_default"
SEND_DEFAULT = 212992
BACKLOG = "net.core.netdev_max_backlog"
BACKLOG_DEFAULT = 1000


def filter_memory(host: Host, networks: Mapping[str, frozenset[Network]]) -> list[Finding]:
    """Try the filters on a socket that gets nothing. A finding only where one has no room."""
    small = [interface for interface, taken in networks.items() if not _fits(taken)]
    if not small:
        return []
    room = host.sysctl(OPTMEM)
    given = f"{OPTMEM} = {room}," if room is not None else f"{OPTMEM} is"  # the machine's
    value = f"{given} too small for the filter of {', '.join(small)}"
    why = (
        "a coarser filter lets traffic to other addresses into the rings, and stays until a rule of"
        " that interface changes"
        if _fits(None)
        else "without room for a filter there is no ring, and nothing is relayed"
    )
    return [Finding("filter memory", "trouble", value, why, setting(OPTMEM, OPTMEM_ENOUGH))]


def _fits(taken: frozenset[Network] | None) -> bool:
    """Whether both fit: at a reload, the old filter and the new one exist together."""
    program = filters.ingress(taken)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            for _ in range(2):
                attach_filter(sock, program)
        except OSError as error:
            return error.errno != errno.ENOMEM
    return True


def fragments(host: Host) -> list[Finding]:
    """Check lost fragments: sets without a timeout had no room, or were wrong. Silent if none."""
    counts = host.ip_counters()
    if not counts:
        return [unreadable("fragments", f"/{NET}/snmp", "no counters")]
    failed, late = (int(counts.get(name, 0)) for name in ("ReasmFails", "ReasmTimeout"))
    if failed == 0:
        return []
    value = f"{failed} IPv4 packets not completed since the start, {late} of them by timeout"
    threshold = host.sysctl(FRAGMENTS)
    if failed <= late or threshold is None:
        why = "fragments were lost on the path: no setting of this host helps"
        return [Finding("fragments", "ok", value, why)]
    if threshold > FRAGMENTS_DEFAULT:
        why = f"{FRAGMENTS} = {threshold} is raised already; if the number grows, raise it further"
        return [Finding("fragments", "ok", value, why)]
    why = f"of those without a timeout, {FRAGMENTS} = {threshold} may have left no room"
    remedy = setting(FRAGMENTS, 4 * FRAGMENTS_DEFAULT)
    return [Finding("fragments", "trouble", value, why, remedy)]


def send_buffer(host: Host) -> list[Finding]:
    """Check the buffer of outputs; inputs have rings, whatever rmem_default and rmem_max are."""
    check, size = "send buffer", host.sysctl(SEND)
    if size is None:
        return []  # of a container; the machine has it
    value = f"{SEND} = {size}"
    if size >= SEND_DEFAULT:
        return [Finding(check, "ok", value)]
    why = (
        "packets that an output sends while its interface is busy are lost as EAGAIN;"
        " sockets that are open keep theirs until mcrd is stopped"
    )
    return [Finding(check, "trouble", value, why, setting(SEND, SEND_DEFAULT))]


def backlog(host: Host) -> list[Finding]:
    """Check where frames of veth, tunnels and RPS wait for a CPU. Silent if none was lost.

    They are the second number of each CPU's line, and the whole machine's.
    """
    check, lines = "backlog", host.lines(f"{NET}/softnet_stat")
    try:
        dropped = sum(int(line.split()[1], 16) for line in lines)
    except (IndexError, ValueError):
        return [unreadable(check, f"/{NET}/softnet_stat", "no counters")]
    if dropped == 0:
        return []
    size = host.sysctl(BACKLOG)
    value = f"{dropped} frames dropped before any socket since the start, {BACKLOG} = {size}"
    if size is None:
        value = f"{dropped} frames dropped before any socket since the start"
        why = f"{BACKLOG} had no room; a container cannot see the machine's"
        return [Finding(check, "unknown", value, why)]
    if size > BACKLOG_DEFAULT:
        why = "it is raised already; if the number grows, raise it further"
        return [Finding(check, "ok", value, why)]
    why = "virtual interfaces deliver more frames at once, and no counter of mcrd shows the loss"
    return [Finding(check, "trouble", value, why, setting(BACKLOG, 16 * BACKLOG_DEFAULT))]
