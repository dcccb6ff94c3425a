"""Makes docs/web.png from the network of the demo: `make screenshot` (needs root, chromium)."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import demo
from tests.lab import Lab, wait_for
from tests.web.serving import serving

PICTURE = Path(__file__).parents[1] / "docs/web.png"
RULES = """
[rules.camera-hall]
description = "The wall of the hall"
input = { interface = "r0", address = "239.1.1.1", port = 5000 }
outputs = [
    { interface = "r1", address = "239.2.2.2", port = 6000, ttl = 8 },
    { interface = "r2", address = "239.1.1.1", ttl = 8 },
]

[rules.camera-door]
input = { interface = "r0", address = "239.1.1.2", port = 5000 }
outputs = [{ interface = "r2", address = "239.1.1.2", ttl = 8 }]

[rules.market-data]
input.interface = "r0"
input.address = "239.1.1.3"
input.port = 5000
input.limit = { packets_per_second = 300 }
outputs = [
    { interface = "r2", address = "239.1.1.3", ttl = 8 },
    { interface = "r3", address = "10.4.0.2", port = 7000 },
]

[rules.intercom]
input = { interface = "r1", address = "239.9.1.1", port = 5004 }
outputs = [{ interface = "r3", address = "239.9.1.1", ttl = 8 }]

[rules.studio]
input = { interface = "studio0", address = "239.9.1.2", port = 5004 }
outputs = [{ interface = "r1", address = "239.9.1.2", ttl = 8 }]
"""
RATES = {1: 1200, 2: 500, 3: 400}  # packets/s of 239.1.1.N


def main() -> None:
    """Start all of it, wait for the streams, and take the picture."""
    with Lab() as lab:
        with contextlib.redirect_stdout(io.StringIO()):
            network = demo._build(lab)  # noqa: SLF001
        daemon = lab.mcrd(network.relay, RULES)
        daemon.wait_until_it_answers()
        for number, rate in RATES.items():
            to = f"239.1.1.{number}"
            network.source.start_send("s0", to, 5000, rate=rate, size=1300 - number, ttl=8)
        with serving(daemon.control) as web, sync_playwright() as playwright:
            web.until_it_knows()
            wait_for(lambda: web.state()["rules"]["market-data"].get("lost"), "the streams", 60)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1200, "height": 820})
            page.goto(web.url)
            page.locator("g.link.flows").nth(6).wait_for()
            page.wait_for_timeout(6000)  # until the widths are what they will be
            page.screenshot(path=PICTURE)
            browser.close()


if __name__ == "__main__":
    main()
