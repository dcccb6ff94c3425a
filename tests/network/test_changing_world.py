"""What happens around a stream while it flows: counted at the receivers, datagram by datagram.

Where a time is named in a rule of this project, the test asserts ten times as much: machines are
shared. What was measured is printed (`-s`).
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import Fork, Lab, Mcrd, Triangle, wait_for
from tests.lab.daemon import with_engine
from tests.lab.datagrams import sender
from tests.lab.rules import rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab import Host
    from tests.lab.traffic import Receiver, Sender

UNWATCHED = "[daemon]\nwatch = false\n"
FLOWS = 20
PERFECT = {"lost": 0, "duplicated": 0, "reordered": 0, "corrupt": 0}
GUARD = 10.0


def only(result: dict[str, Any], count: int) -> dict[str, int]:
    """What a receiver found, without what is as it should be."""
    found = {"unique": count - result["unique"], **{key: result[key] for key in PERFECT}}
    return {key: value for key, value in found.items() if value}


def workers(daemon: Mcrd) -> list[int]:
    return [int(worker["pid"]) for worker in daemon.stats()["workers"]]


def another_worker(daemon: Mcrd, old: int, timeout: float = GUARD) -> None:
    wait_for(lambda: workers(daemon) not in ([], [old]), "another worker", timeout)


def state(daemon: Mcrd, name: str) -> str:
    return str(daemon.stats()["rules"][name]["state"])


def busy_rules() -> list[str]:
    return [
        rule(f"busy-{n}", f"r0 239.1.1.{n} 5000", f"r1 239.2.2.{n} 6000")
        for n in range(1, FLOWS + 1)
    ]


def idle_rule(number: int, ttl: int = 4) -> str:
    where = f"{number // 250}.{number % 250 + 1}"
    return rule(f"idle-{number}", f"r0 239.3.{where} 5000", f"r1 239.4.{where} 6000 ttl={ttl}")


@pytest.mark.alone
@pytest.mark.parametrize(
    ("rules", "at_most", "seconds"),
    [(200, 40, 6), pytest.param(1000, 200, 30, marks=pytest.mark.long)],
    ids=["200", "1000"],
)
def test_reloads_touch_nothing_but_what_they_change(
    triangle: Triangle, rules: int, at_most: int, seconds: int
) -> None:
    """As many as there is time for: one takes ten times as long where there is much to do."""
    idle = {number: idle_rule(number) for number in range(rules - FLOWS)}
    text = UNWATCHED + "".join([*busy_rules(), *idle.values()])
    daemon = triangle.lab.mcrd(triangle.relay, text)
    count = 40_000 * seconds
    received = triangle.sink.receive(
        "k0", "239.2.2.1", 6000, expect=count, flows=FLOWS, timeout=seconds + 30
    )
    stream = triangle.source.start_send(
        "s0", "239.1.1.1", 5000, count=count, rate=40_000, size=400, flows=FLOWS
    )
    number = 0
    while number < at_most and stream.process.poll() is None:
        del idle[number]
        idle[rules + number] = idle_rule(rules + number)
        idle[number + at_most] = idle_rule(number + at_most, ttl=5)
        daemon.edit(UNWATCHED + "".join([*busy_rules(), *idle.values()]))
        said = daemon.ctl("reload").stdout.splitlines()
        assert said == [
            f"+ rules.idle-{rules + number}",
            f"~ rules.idle-{number + at_most}: outputs[0].ttl 4 -> 5",
            f"- rules.idle-{number}",
            f"= {rules - 2} unchanged",
        ]
        number += 1
    assert number >= at_most / 10
    stream.result(timeout=120)
    assert only(received.result(timeout=seconds + 60), count) == {}


def with_vim(path: Path, text: str) -> None:
    """As a person does: opens it, puts the new text in, and writes."""
    other = path.with_name("to-be-read-in")
    other.write_text(text)
    vim = shutil.which("vim.tiny") or shutil.which("vim")
    assert vim is not None, "vim is not installed: run `make setup`"
    command = [vim, "-u", "NONE", "-es", f"+%d|0r {other}|$d|wq", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=20)


def with_sed(path: Path, text: str) -> None:
    changed = next(line for line in text.splitlines() if "239.9.9.8" in line)
    subprocess.run(["sed", "-i", f"s|.*239.9.9.8.*|{changed}|", str(path)], check=True)


def with_cp(path: Path, text: str) -> None:
    other = path.with_name("copied")
    other.write_text(text)
    subprocess.run(["cp", str(other), str(path)], check=True)


def with_mv(path: Path, text: str) -> None:
    other = path.with_name("moved")
    other.write_text(text)
    subprocess.run(["mv", "-f", str(other), str(path)], check=True)


def with_ln(path: Path, text: str) -> None:
    target = path.with_name(f"target-{len(list(path.parent.iterdir()))}")
    target.write_text(text)
    link = path.with_name("link")
    link.symlink_to(target)
    subprocess.run(["mv", "-fT", str(link), str(path)], check=True)


@pytest.mark.alone
def test_every_way_to_save_is_one_reload_and_disturbs_nothing(triangle: Triangle) -> None:
    def text(ttl: int) -> str:
        edited = rule("edited", "r0 239.9.9.9 4242", f"r1 239.9.9.8 4242 ttl={ttl}")
        return with_engine("".join(["[daemon]\n", edited, *busy_rules(), *idle]))

    idle = [idle_rule(number) for number in range(1000 - FLOWS - 1)]
    daemon = triangle.lab.mcrd(triangle.relay, text(1))
    saves = (with_vim, with_sed, with_cp, with_mv, with_ln, with_sed, with_vim)
    count = 40_000 * 16
    received = triangle.sink.receive(
        "k0", "239.2.2.1", 6000, expect=count, flows=FLOWS, timeout=300
    )
    stream = triangle.source.start_send(
        "s0", "239.1.1.1", 5000, count=count, rate=40_000, size=400, flows=FLOWS
    )
    for number, save in enumerate(saves, 1):
        save(daemon.config, text(1 + number))
        wait_for(
            lambda n=number: len(reloads(daemon)) >= n,  # type: ignore[misc]
            f"the reload after {save.__name__}",
        )
    assert stream.process.poll() is None, "the saves were to happen under traffic"
    stream.result()
    assert only(received.result(timeout=300), count) == {}
    assert reloads(daemon) == [
        f"reload (file saved): ~ rules.edited: outputs[0].ttl {n} -> {n + 1}, = 999 unchanged"
        for n in range(1, 1 + len(saves))
    ]


def reloads(daemon: Mcrd) -> list[str]:
    """What the log says about them."""
    lines = [line for line in daemon.log().splitlines() if "INFO: reload (" in line]
    return [line.partition("INFO: ")[2] for line in lines]


@pytest.mark.alone
@pytest.mark.parametrize(
    "changed",
    [
        pytest.param("r2 239.3.3.9 7000", marks=pytest.mark.long),
        pytest.param("r2 239.3.3.3 7000 ttl=9", marks=pytest.mark.long),
        pytest.param("r2 239.3.3.3 7000', 'r2 239.3.3.4 7000", marks=pytest.mark.long),
        "r2 10.3.0.2 7000",
    ],
    ids=["address", "ttl", "added", "to a host"],
)
def test_a_changed_output_does_not_disturb_those_that_stay(fork: Fork, changed: str) -> None:
    stays, count = "r1 239.2.2.1 6000", 200_000

    def text(*outputs: str) -> str:
        return UNWATCHED + rule("a", "r0 239.1.1.1 5000", stays, *outputs)

    daemon = fork.lab.mcrd(fork.relay, text("r2 239.3.3.3 7000"))
    received = fork.sink.receive("k0", "239.2.2.1", 6000, expect=count)
    stream = fork.source.start_send("s0", "239.1.1.1", 5000, count=count, rate=20_000, size=1000)
    for number in range(8):
        daemon.edit(text(*(changed.split("', '") if number % 2 == 0 else ["r2 239.3.3.3 7000"])))
        daemon.ctl("reload")
    assert stream.process.poll() is None, "the changes were to happen under traffic"
    stream.result()
    assert only(received.result(), count) == {}


@pytest.mark.alone
@pytest.mark.parametrize(
    "source",
    [pytest.param("", marks=pytest.mark.long), ' source="keep"'],
    ids=["own source", "kept source"],
)
def test_members_of_an_output_that_stays_are_not_disturbed(fork: Fork, source: str) -> None:
    """Each group of a range, and each source that is kept, has sockets of its own."""
    first, count = f"r1 239.2.0.0/24 6000 ttl=4{source}", 100_000

    def text(*outputs: str) -> str:
        return UNWATCHED + rule("a", "r0 239.1.0.0/24 5000", *outputs)

    second = [f"r2 239.{n}.0.0/24 7000 ttl={ttl}{source}" for n, ttl in ((3, 4), (3, 9), (4, 4))]
    daemon = fork.lab.mcrd(fork.relay, text(first, second[0]))

    def known() -> bool:
        fork.source.send("s0", "239.1.0.1", 5000, count=FLOWS, flows=FLOWS, source_port=4321)
        counts = daemon.stats()["rules"]["a"]["outputs"]
        return all(output["sent"]["packets"] >= FLOWS for output in counts)

    wait_for(known, "all members to be known")
    before = daemon.stats()["rules"]["a"]["outputs"][0]
    received = fork.sink.receive("k0", "239.2.0.1", 6000, expect=count, flows=FLOWS)
    stream = fork.source.start_send(
        "s0", "239.1.0.1", 5000, count=count, rate=20_000, size=400, flows=FLOWS, source_port=4321
    )
    for outputs in (
        [first, second[1]],
        [second[1], first],
        [first],
        [first, second[2], second[1]],
        [first, second[2]],
    ):
        daemon.edit(text(*outputs))
        daemon.ctl("reload")
    assert stream.process.poll() is None, "the changes were to happen under traffic"
    stream.result()
    assert only(received.result(), count) == {}
    after = daemon.stats()["rules"]["a"]["outputs"]
    assert after[0]["new_member"] == before["new_member"]
    assert after[0]["sent"]["packets"] == before["sent"]["packets"] + count
    assert after[1]["sent"]["packets"] > 0
    daemon.edit(UNWATCHED)
    daemon.ctl("reload")
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 40


@pytest.mark.alone
def test_a_broken_file_does_nothing_to_traffic(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED + "".join(busy_rules()))
    count = 160_000
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=count, flows=FLOWS)
    stream = triangle.source.start_send(
        "s0", "239.1.1.1", 5000, count=count, rate=40_000, size=400, flows=FLOWS
    )
    broken = UNWATCHED + rule("busy-1", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000 ttl=300")
    daemon.edit(broken)
    line = daemon.config.read_text().splitlines().index("[rules.busy-1]") + 4
    for _ in range(5):
        done = daemon.ctl("reload", check=False)
        assert done.returncode == 1
        assert f"{daemon.config}:{line}:" in done.stderr
    assert stream.process.poll() is None, "the reloads were to happen under traffic"
    stream.result()
    assert only(received.result(), count) == {}


@pytest.mark.alone
def test_a_worker_that_is_killed_ten_times_loses_nothing(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000"))
    count, kills, before = 300_000, 10, 0
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=count)
    stream = triangle.source.start_send(
        "s0", "239.1.1.1", 5000, count=count, rate=20_000, size=1000
    )
    for _ in range(kills):
        (pid,) = workers(daemon)
        os.kill(pid, signal.SIGKILL)
        another_worker(daemon, pid)
        wait_for(lambda: state(daemon, "a") == "active", "the rule to be active")
        now = int(daemon.stats()["rules"]["a"]["received"]["packets"])
        assert now >= before, "counters went back"
        before = now
    assert stream.process.poll() is None, "the kills were to happen under traffic"
    stream.result()
    result = received.result()
    print(f"{kills} kills: {result['duplicated']} duplicates")
    assert (result["unique"], result["lost"], result["corrupt"]) == (count, 0, 0)
    assert result["duplicated"] <= kills * 2048  # a harvest each
    assert daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"] == 0


def test_a_worker_that_hangs_is_replaced(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000"))
    count = 120_000
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=count)
    stream = triangle.source.start_send(
        "s0", "239.1.1.1", 5000, count=count, rate=20_000, size=1000
    )
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] > 1000, "the stream")
    (pid,) = workers(daemon)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    another_worker(daemon, pid, 30 * GUARD)
    took = time.monotonic() - began
    stream.result()
    wait_for(
        lambda: (
            daemon.stats()["rules"]["a"]["received"]["packets"]
            + daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"]
            >= count
        ),
        "all to be accounted for",
    )
    full = daemon.stats()["interfaces"]["r0"]["dropped"]["ring_full"]
    result = received.stop()
    print(f"replaced after {took:.2f} s; ring_full {full}, duplicated {result['duplicated']}")
    missed = triangle.source.missed("s0") + triangle.relay.missed("r1")
    assert count - result["unique"] == full + missed
    assert result["corrupt"] == 0
    assert "hung" in daemon.log()


def until_it_flows(source: Host, sink: socket.socket, group: str) -> float:
    """Sends until something arrives; returns the seconds that it took."""
    began = time.monotonic()
    sink.setblocking(False)

    def arrived() -> bool:
        with sender(source, "s0") as out:
            out.sendto(b"?", (group, 5000))
        try:
            return bool(sink.recv(100))
        except BlockingIOError:
            return False

    wait_for(arrived, "the stream to be back")
    return time.monotonic() - began


def member(host: Host, interface: str, group: str, port: int) -> socket.socket:
    sock = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with host.inside():
        sock.bind((group, port))
        index = socket.if_nametoindex(interface)
    mreqn = socket.inet_aton(group) + bytes(4) + index.to_bytes(4, "little")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
    return sock


def remake_input(net: Fork) -> None:
    net.relay.run("ip", "link", "del", "r0")
    net.lab.link(net.source, "s0", ["10.1.0.1/24"], net.relay, "r0", ["10.1.0.2/24"])


def remake_output(net: Fork) -> None:
    net.relay.run("ip", "link", "del", "r1")
    net.lab.link(net.relay, "r1", ["10.2.0.1/24"], net.sink, "k0", ["10.2.0.2/24"])


def change_address(net: Fork) -> None:
    net.relay.run("ip", "address", "flush", "dev", "r1")
    net.relay.run("ip", "address", "add", "10.2.0.77/24", "dev", "r1")


def rename_output(net: Fork) -> None:
    net.relay.run("ip", "link", "set", "r1", "down")
    net.relay.run("ip", "link", "set", "r1", "name", "other")
    net.relay.run("ip", "link", "set", "other", "name", "r1", "up")


def move_output_away_and_back(net: Fork) -> None:
    net.relay.run("ip", "link", "set", "r1", "netns", str(net.source.pid))
    net.source.run("ip", "link", "set", "r1", "netns", str(net.relay.pid))
    net.relay.run("ip", "address", "add", "10.2.0.1/24", "dev", "r1")
    net.relay.run("ip", "link", "set", "r1", "up")


def change_mtus(net: Fork) -> None:
    net.relay.run("ip", "link", "set", "r0", "mtu", "9000")
    net.relay.run("ip", "link", "set", "r1", "mtu", "1000")


def input_down_and_up(net: Fork) -> None:
    net.relay.run("ip", "link", "set", "r0", "down")
    net.relay.run("ip", "link", "set", "r0", "up")


BESIDE = 60_000  # datagrams of the stream that nothing may disturb


def with_another_stream(net: Fork) -> tuple[Mcrd, Sender, Receiver]:
    """Rule a goes from r0 to r1; b, with a stream, from another source and over r5 and r2."""
    (other,) = net.lab.hosts("other")
    net.lab.link(other, "o0", ["10.5.0.1/24"], net.relay, "r5", ["10.5.0.2/24"])
    daemon = net.lab.mcrd(
        net.relay,
        rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
        + rule("b", "r5 239.5.5.5 5000", "r2 239.3.3.3 7000"),
    )
    received = net.sink2.receive("k1", "239.3.3.3", 7000, expect=BESIDE)
    stream = other.start_send("o0", "239.5.5.5", 5000, count=BESIDE, rate=5_000, size=1000)
    return daemon, stream, received


@pytest.mark.parametrize(
    "change",
    [
        *(remake_input, input_down_and_up),
        *(
            pytest.param(change, marks=pytest.mark.long)
            for change in (
                *(change_address, remake_output, rename_output),
                *(move_output_away_and_back, change_mtus),
            )
        ),
    ],
)
def test_a_link_that_changes_is_back_at_once_and_disturbs_no_other(
    fork: Fork, change: Callable[[Fork], None]
) -> None:
    daemon, stream, received = with_another_stream(fork)
    change(fork)
    sink = member(fork.sink, "k0", "239.2.2.1", 6000)
    with sink:
        took = until_it_flows(fork.source, sink, "239.1.1.1")
    print(f"{change.__name__}: back after {took * 1000:.0f} ms")
    stream.result()
    assert only(received.result(), BESIDE) == {}
    assert daemon.process.poll() is None


def test_a_rule_becomes_active_when_its_interface_comes(lab: Lab) -> None:
    source, relay, sink = lab.hosts("source", "relay", "sink")
    lab.link(relay, "r1", ["10.2.0.1/24"], sink, "k0", ["10.2.0.2/24"])
    lab.mcrd(relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000"))
    lab.link(source, "s0", ["10.1.0.1/24"], relay, "r0", ["10.1.0.2/24"])
    with member(sink, "k0", "239.2.2.1", 6000) as sock:
        took = until_it_flows(source, sock, "239.1.1.1")
    print(f"it flows {took * 1000:.0f} ms after the interface came")


@pytest.mark.alone
@pytest.mark.long
def test_a_thousand_idle_rules_cost_nothing(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(
        triangle.relay, UNWATCHED + "".join(idle_rule(number) for number in range(1000))
    )
    before, began = daemon.cpu_seconds(), time.monotonic()
    time.sleep(5)  # of its life
    share = (daemon.cpu_seconds() - before) / (time.monotonic() - began)
    print(f"1000 idle rules: {share * 100:.2f} % of a CPU, questions about it included")
    assert share < 0.01 * GUARD


@pytest.mark.alone
def test_five_thousand_rules(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, UNWATCHED)
    idle = [idle_rule(number) for number in range(5000)]
    daemon.edit(UNWATCHED + "".join(idle))
    began = time.monotonic()
    daemon.ctl("reload", timeout=60)
    all_of_them = time.monotonic() - began
    idle[2500] = idle_rule(2500, ttl=7)
    daemon.edit(UNWATCHED + "".join(idle))
    began = time.monotonic()
    said = daemon.ctl("reload").stdout.splitlines()
    one = time.monotonic() - began
    print(f"5000 rules: {all_of_them:.2f} s; one of them changed: {one * 1000:.0f} ms")
    assert said == ["~ rules.idle-2500: outputs[0].ttl 4 -> 7", "= 4999 unchanged"]
    assert state(daemon, "idle-4999") == "active"
    assert all_of_them < 2 * GUARD
    assert one < 0.2 * GUARD


@pytest.mark.alone
def test_a_worker_that_dies_again_and_again_waits_and_others_do_not_notice(fork: Fork) -> None:
    daemon, stream, received = with_another_stream(fork)

    killed: list[int] = []

    def next_one() -> int | None:
        pids = [int(w["pid"]) for w in daemon.stats()["workers"] if w["interface"] == "r0"]
        return next((pid for pid in pids if pid not in killed), None)

    def waits() -> list[float]:
        ends = [line for line in daemon.log().splitlines() if "another starts " in line]
        return [
            0.0 if line.endswith("at once") else float(line.split(" in ")[-1].removesuffix(" s"))
            for line in ends
        ]

    # One that took a packet, be it nobody's, does not count as dying for nothing.
    while not any(waits()) and len(killed) < 15:
        killed.append(wait_for(next_one, "a worker of r0"))
        os.kill(killed[-1], signal.SIGKILL)
        wait_for(lambda: len(waits()) == len(killed), "its end")
    assert stream.process.poll() is None, "the deaths were to happen under traffic"
    stream.result()
    assert only(received.result(), BESIDE) == {}
    assert waits()[0] == 0
    assert waits()[-1] > 0
    wait_for(lambda: state(daemon, "a") == "active", "the rule to be back")


def test_events_of_links_that_were_lost_do_no_harm(triangle: Triangle) -> None:
    """The kernel drops what its socket has no room for, and says ENOBUFS (netlink(7))."""
    daemon = triangle.lab.mcrd(triangle.relay, rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000"))
    batch = triangle.lab.file("batch")
    flood = "address add 10.77.0.1/24 dev r0\naddress del 10.77.0.1/24 dev r0\n" * 20_000
    batch.write_text(
        flood + "address flush dev r1\naddress add 10.2.0.77/24 dev r1\nlink set r1 up\n"
    )
    daemon.signal(signal.SIGSTOP)
    try:
        triangle.relay.run("ip", "-batch", str(batch), timeout=120)
    finally:
        daemon.signal(signal.SIGCONT)
    seen = triangle.sink.capture("k0", "udp")

    def from_the_new_address() -> bool:
        with sender(triangle.source, "s0") as out:
            out.sendto(b"?", ("239.1.1.1", 5000))
        frames = seen.frames()
        return bool(frames) and frames[-1][26:30] == socket.inet_aton("10.2.0.77")

    wait_for(from_the_new_address, "datagrams from the new address")
    assert "reading all interfaces anew" in daemon.log()
