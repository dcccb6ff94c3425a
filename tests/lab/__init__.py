"""The lab: private networks of Linux network namespaces, for the tests and for the demo.

    with Lab() as lab:
        source, relay, sink = lab.hosts("source", "relay", "sink")
        lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24", "fd01::2/64"])
        lab.link(relay, "r1", ["10.2.0.1/24"], sink, "k0", ["10.2.0.2/24"], mtu=9000)
        lab.mcrd(relay, RULES)
        received = sink.receive("k0", "239.2.2.2", 6000, expect=1000)
        source.send("s0", "239.1.1.1", 5000, count=1000, rate=1000)
        assert received.result()["lost"] == 0

No process and no namespace outlives the process that made it, whatever ends that process: the
namespaces have no name, each is held by one process, and every process asks the kernel for SIGKILL
when its parent dies. (The kernel's "parent" is the thread that started it: do not start long-lived
ones from a thread that ends earlier.) What SIGKILL and SIGTERM do leave is a directory of small
files, mcrd-lab-* where temporary files go.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from tests.lab.capture import Capture
from tests.lab.daemon import Mcrd
from tests.lab.network import Host, Lab, cut, super_frames_arrive
from tests.lab.processes import CommandError, LabError, leftovers, wait_for
from tests.lab.scenarios import Fork, Triangle, build_fork, build_triangle
from tests.lab.traffic import Receiver, Sender

__all__ = [
    "Capture",
    "CommandError",
    "Fork",
    "Host",
    "Lab",
    "LabError",
    "Mcrd",
    "Receiver",
    "Sender",
    "Triangle",
    "build_fork",
    "build_triangle",
    "cut",
    "leftovers",
    "super_frames_arrive",
    "wait_for",
]
