"""Start and end: under traffic, by every signal, with nothing left behind."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.lab import Mcrd, Triangle, wait_for
from tests.lab.daemon import console_script
from tests.lab.rules import rule

A = rule("a", "r0 239.1.1.1 5000", "r1 239.2.2.1 6000")
END = 20.0  # seconds; two are promised
EXAMPLE = Path(__file__).parents[2] / "etc/mcr.toml.example"


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def workers_of(pid: int) -> list[int]:
    """All children but a spare one, and those that have only been started."""
    found = []
    for child in children(pid):
        with suppress(OSError):  # it has ended
            if Path(f"/proc/{child}/comm").read_text() == "mcrd-worker\n":
                found.append(child)
    return found


def with_a_spare(pid: int) -> list[int]:
    """Its worker and the spare process, once both are there."""
    return wait_for(lambda: two if len(two := children(pid)) == 2 else None, "a spare process")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_under_traffic_and_leaves_nothing(
    triangle: Triangle, number: signal.Signals
) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    stream = triangle.source.start_send("s0", "239.1.1.1", 5000, rate=20_000)
    wait_for(lambda: daemon.stats()["rules"]["a"]["received"]["packets"] > 1000, "the stream")
    workers = with_a_spare(daemon.pid)
    assert workers_of(daemon.pid) == [worker["pid"] for worker in daemon.stats()["workers"]]
    before = time.monotonic()
    daemon.signal(number)
    assert daemon.process.wait(END) == 0
    print(f"ended in {time.monotonic() - before:.3f} s")
    stream.stop()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert sorted(path.name for path in daemon.directory.iterdir()) == ["log", "mcr.toml"]
    # Neither a packet socket nor a membership is left.
    assert len(triangle.relay.run("cat", "/proc/net/packet").splitlines()) == 1
    assert "239.1.1.1" not in triangle.relay.run("ip", "maddress", "show", "dev", "r0")
    assert "Traceback" not in daemon.log()


def test_workers_end_with_a_supervisor_that_is_killed(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    workers = with_a_spare(daemon.pid)
    daemon.kill()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "their end")
    # The next daemon takes over the socket file that is left.
    assert daemon.control.exists()
    again = Mcrd(triangle.relay, A, ("--control", str(daemon.control)), None)
    again.control = daemon.control
    again.wait_until_it_answers()
    assert again.stop() == 0


def test_a_terminal_s_interrupt_ends_it_with_its_workers(triangle: Triangle) -> None:
    """Ctrl-C goes to the whole foreground process group; the workers are not in it."""
    daemon = triangle.lab.mcrd(triangle.relay, A)
    (worker,) = workers_of(daemon.pid)
    assert os.getpgid(worker) != os.getpgid(daemon.pid)
    os.killpg(os.getpgid(daemon.pid), signal.SIGINT)
    assert daemon.process.wait(END) == 0
    assert "Traceback" not in daemon.log()


def test_a_terminated_start_is_an_orderly_end(triangle: Triangle) -> None:
    """SIGTERM at ten moments of the start: always exit code 0, and no worker left."""
    for number in range(10):
        daemon = Mcrd(triangle.relay, A, (), None)
        wait_for(partial(_handles_term, daemon.pid), "its signal handler", interval=0.001)
        time.sleep(number * 0.04)  # another moment each time
        daemon.signal(signal.SIGTERM)
        assert daemon.process.wait(END) == 0, daemon.log()
        assert "Traceback" not in daemon.log()
        assert not daemon.control.exists()


def _handles_term(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_workers_start_lazily_and_end_with_their_last_rule(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, "")
    assert daemon.stats()["workers"] == []
    assert workers_of(daemon.pid) == []
    daemon.edit(A)
    daemon.ctl("reload")
    assert len(workers_of(daemon.pid)) == 1
    with_a_spare(daemon.pid)
    daemon.edit(A + "enabled = false\n")
    daemon.ctl("reload")
    assert workers_of(daemon.pid) == []
    wait_for(lambda: not children(daemon.pid), "the end of the spare process")
    assert daemon.status()["rules"] == {"disabled": 1}


def test_a_silent_client_holds_nobody_up(triangle: Triangle) -> None:
    daemon = triangle.lab.mcrd(triangle.relay, A)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    for number, client in enumerate(silent):
        client.connect(str(daemon.control))
        if number % 2:
            client.send(b'{"command"')
    received = triangle.sink.receive("k0", "239.2.2.1", 6000, expect=1000)
    triangle.source.send("s0", "239.1.1.1", 5000, count=1000, rate=5000)
    assert received.result()["unique"] == 1000
    daemon.ctl("reload")
    assert daemon.status()["rules"] == {"active": 1}
    assert daemon.stop() == 0
    for client in silent:
        client.close()


def test_systemd_is_told(triangle: Triangle) -> None:
    """sd_notify(3): READY after the first plan, RELOADING and READY around a reload, STOPPING."""
    path = triangle.lab.file("notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(END)
        daemon = triangle.lab.mcrd(triangle.relay, A, env={"NOTIFY_SOCKET": str(path)})
        daemon.ctl("reload")
        daemon.stop()
        heard: list[str] = []
        while not heard or heard[-1] != "STOPPING=1":
            heard += manager.recv(4096).decode().splitlines()
    told = [line for line in heard if not line.startswith(("STATUS", "MONOTONIC", "FD"))]
    assert told == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert "STATUS=1 rule" in heard


def test_the_watchdog_hears_of_a_daemon_that_is_well_and_of_no_other(triangle: Triangle) -> None:
    path = triangle.lab.file("notify")
    env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(END)
        daemon = triangle.lab.mcrd(triangle.relay, A, env=env)

        def hear(what: str) -> str:
            while not (line := manager.recv(4096).decode()).startswith(what):
                pass
            return line

        for _ in range(3):
            hear("WATCHDOG=1")
        daemon.signal(signal.SIGSTOP)
        manager.settimeout(3.0)
        with pytest.raises(TimeoutError):
            hear("what it never says")
        daemon.signal(signal.SIGCONT)
        manager.settimeout(END)
        hear("WATCHDOG=1")


def test_the_status_says_what_flows(triangle: Triangle) -> None:
    path = triangle.lab.file("notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(END)
        triangle.lab.mcrd(triangle.relay, A, env={"NOTIFY_SOCKET": str(path)})
        sending = triangle.source.start_send(
            "s0", "239.1.1.1", 5000, count=1_000_000, rate=2000, size=100
        )
        status = re.compile(r"STATUS=1 rule; 1 interface, (\d+) pps in, (\d+) pps out, 0 lost")
        deadline = time.monotonic() + END
        while time.monotonic() < deadline:
            found = status.fullmatch(manager.recv(4096).decode())
            if found and int(found[1]) > 1000:
                break
        assert found
        assert abs(int(found[1]) - int(found[2])) < 1000
        sending.process.terminate()


@pytest.mark.parametrize("command", [("mcrd", "--check", "--config"), ("mcrctl", "check")])
def test_check_needs_no_daemon(tmp_path: Path, command: tuple[str, ...]) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(A)
    bad.write_text("[rules.a]\ninput = 3\ncolour = 4\n")
    program = console_script(command[0])
    done = subprocess.run(
        [program, *command[1:], str(good)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{good}: 1 rule (1 enabled), 1 output: good\n")
    done = subprocess.run(
        [program, *command[1:], str(bad)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        [f"{bad}:1:1", "rules.a.outputs"],
        [f"{bad}:2:9", "rules.a.input"],
        [f"{bad}:3:1", "rules.a.colour"],
    ]


def test_check_as_json(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[rules.a]\ninput = 3\noutputs = []\n")
    done = subprocess.run(
        [console_script("mcrctl"), "check", "--json", str(bad)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert [(p["line"], p["column"], p["key"]) for p in found["problems"]] == [
        (2, 9, "rules.a.input"),
        (3, 11, "rules.a.outputs"),
    ]


def test_the_example_passes() -> None:
    done = subprocess.run(
        [console_script("mcrctl"), "check", str(EXAMPLE)], capture_output=True, check=False
    )
    assert done.returncode == 0


def test_mcrctl_without_a_daemon_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [console_script("mcrctl"), "--control", str(tmp_path / "none"), "stats", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "is mcrd running?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_relative_paths_are_those_of_the_start(triangle: Triangle) -> None:
    """Whoever is told of them is elsewhere; and links on the way are followed each time anew."""
    made = triangle.lab.file("made")
    (made / "real" / "deep").mkdir(parents=True)
    (made / "link").symlink_to("real/deep")  # link/.. is real
    for name, count in (("one", 1), ("two", 2)):
        (made / "real" / name).mkdir()
        main = '[daemon]\ninclude = ["parts/*.toml"]\n'
        (made / "real" / name / "mcr.toml").write_text(main)
        (made / "real" / name / "parts").mkdir()
        for number in range(count):
            text = rule(f"r{number}", f"r0 239.1.1.{number} 5000", "r1 239.2.2.1 6000")
            (made / "real" / name / "parts" / f"{number}.toml").write_text(text)
    (made / "real" / "now").symlink_to("one")
    script = (
        f'cd "{made}"; control=$(realpath --relative-to=. "$4")\n'
        'exec "$0" --config link/../now/mcr.toml --control "$control"'
    )
    program = ("sh", "-c", script, console_script("mcrd"))
    daemon = triangle.lab.mcrd(triangle.relay, "", program=program)
    path = f"{made}/link/../now/mcr.toml"
    status = daemon.status()
    assert (status["config"], status["summary"]) == (path, "1 rule")
    found = json.loads(daemon.ctl("doctor", "--json", check=False).stdout)["findings"]
    assert [f["value"] for f in found if f["check"] == "rule file"] == [f"{path}, 1 rule enabled"]
    told = daemon.ctl("explain", "r0", "--seconds", "0.1", "--json", check=False).stdout
    texts = [finding["text"] for finding in json.loads(told)["findings"]]
    assert f"what runs is what {path} says" in texts  # in lines, it depends on $COLUMNS
    (made / "real" / "new").symlink_to("two")
    (made / "real" / "new").rename(made / "real" / "now")
    daemon.ctl("reload")
    assert daemon.status()["summary"] == "2 rules"
    assert daemon.stop() == 0
    assert not daemon.control.exists()
