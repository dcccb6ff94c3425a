"""nginx and caddy in front of mcrd-web, by the very lines of docs/web.md."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import wait_for
from tests.web.serving import Answers, Web, answering, rule, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("aiohttp", reason="aiohttp is not installed: `pip install 'mcrd[web]'`")
pytestmark = pytest.mark.long
DOCUMENT = (Path(__file__).parents[2] / "docs/web.md").read_text(encoding="utf-8")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
ANN = "Basic " + base64.b64encode(b"ann:geheim").decode()
NAMES = ("camera", "home/mdns:eth0", "50 % & more?")


def documented(what: str) -> str:
    """The lines below the one that begins so."""
    below = DOCUMENT.split(f"\n{what}")[1].split("\n\n", 1)[1]
    lines = re.match(r"(?:(?: {4}.*)?\n)+", below)
    assert lines is not None
    return textwrap.dedent(lines[0]).strip()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[tuple[Answers, Web]]:
    answers = Answers()
    answers.set_rules({name: rule(packets=2000) for name in NAMES})
    control = tmp_path / "control.sock"
    with answering(control, answers), serving(control, "--proxy-header", "X-Remote-User") as web:
        yield answers, web


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(home: Path, begin: Callable[[int], tuple[str, ...]]) -> Iterator[int]:
    """A proxy, and its port; another one when somebody else was faster to bind it."""
    kept = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(home))
    for _ in range(5):
        port = free_port()
        process = subprocess.Popen(begin(port), env={**os.environ, "PATH": PATH, **kept})
        try:
            wait_for(partial(is_ready, process, port), "the proxy to listen")
            if process.poll() is None:
                yield port
                return
        finally:
            process.terminate()
            process.wait(60)
    pytest.fail("the proxy ends at once")


def is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it listens there, or has ended."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 5).close()
        return True
    return process.poll() is not None


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as to:
        to.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = to.getresponse()
        return answer.status, answer.read()


def is_in_front(port: int, at: str, answers: Answers, web: Web) -> None:
    """Only who has the password is let in, and sees what happens as it happens."""
    wait_for(lambda: b'"trouble":""' in get(port, f"{at}/state", Authorization=ANN)[1], "mcrd")
    assert get(port, f"{at}/")[0] == 401
    assert get(port, f"{at}/state", X_Remote_User="ann")[0] == 401
    assert get(web.port, "/state")[0] == 401
    status, page = get(port, f"{at}/", Authorization=ANN)
    assert (status, b"<title>mcrd</title>" in page) == (200, True)
    assert get(port, f"{at}/app.js", Authorization=ANN)[0] == 200
    for path in ("camera", "home%2Fmdns%3Aeth0", "50%20%25%20%26%20more%3F"):
        status, found = get(port, f"{at}/rule/{path}", Authorization=ANN)
        assert (status, json.loads(found)["received"]) == (200, 0)

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as to:
        to.request("GET", f"{at}/events", headers={"Authorization": ANN})
        lines = (line for line in to.getresponse() if line.startswith(b"data: "))
        told: Iterator[dict[str, Any]] = (json.loads(line[6:]) for line in lines)
        assert next(told)["rules"].keys() == set(NAMES)
        for name in ("first", "second"):  # each is there before the next one is made
            answers.set_rules({name: rule(packets=3)})
            assert name in next(found for found in told if found.get("rules"))["rules"]


@pytest.mark.skipif(not shutil.which("nginx", path=PATH), reason="no nginx: `make setup` has it")
def test_nginx(behind: tuple[Answers, Web], tmp_path: Path) -> None:
    answers, web = behind
    users = tmp_path / "mcrd.users"
    users.write_text("ann:{PLAIN}geheim\n")
    lines = documented("nginx, with passwords in a file.")
    lines = lines.replace("127.0.0.1:9478", f"127.0.0.1:{web.port}")
    lines = lines.replace("/etc/nginx/mcrd.users", str(users))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)

    def begin(port: int) -> tuple[str, ...]:
        (tmp_path / "nginx.conf").write_text(
            f"user root;\npid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}"
            f"server {{\nlisten 127.0.0.1:{port};\n{lines}\n}}\n}}\n"
        )
        command = ("nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "errors"))
        return (*command, "-g", "daemon off;")

    with running(tmp_path, begin) as port:
        is_in_front(port, "/mcrd", answers, web)


@pytest.mark.skipif(not shutil.which("caddy", path=PATH), reason="no caddy: `make setup` has it")
def test_caddy(behind: tuple[Answers, Web], tmp_path: Path) -> None:
    answers, web = behind
    lines = documented("caddy")
    caddy = shutil.which("caddy", path=PATH)
    assert caddy is not None
    hashed = subprocess.run(
        [caddy, "hash-password", "--plaintext", "geheim"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    lines = lines.replace("127.0.0.1:9478", f"127.0.0.1:{web.port}").replace("$2a$14$...", hashed)

    def begin(port: int) -> tuple[str, ...]:
        here = lines.replace("relay.example", f"http://127.0.0.1:{port}")
        (tmp_path / "Caddyfile").write_text(f"{{\nadmin off\n}}\n{here}\n")
        return (caddy, "run", "--config", str(tmp_path / "Caddyfile"))

    with running(tmp_path, begin) as port:
        is_in_front(port, "", answers, web)
