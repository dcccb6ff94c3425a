"""The rule file that is made of an igmpproxy.conf does what that did: real packets, real joins."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

from tests.lab import wait_for
from tests.lab.daemon import console_script
from tests.network.test_observing import METRICS, scrape

if TYPE_CHECKING:
    from tests.lab import Lab, Mcrd

CONFIGURATION = """
quickleave
phyint r0 upstream ratelimit 0 threshold 1
    altnet 10.1.0.0/16
    whitelist 239.1.0.0/16
phyint r1 downstream ratelimit 0 threshold 1
phyint r2 downstream ratelimit 0 threshold 1
phyint lo disabled
"""


def known(daemon: Mcrd) -> dict[str, list[str]]:
    """By interface, the groups that somebody has joined, by IGMP."""
    asked = json.loads(daemon.ctl("members", "--json").stdout)["asked"]
    return {
        each["interface"]: [group["group"] for group in each["groups"]]
        for each in asked
        if each["protocol"] == "igmp"
    }


def wanted(daemon: Mcrd) -> dict[str, list[str]]:
    """Those of them that are of the rule."""
    return {
        interface: [group for group in groups if group.startswith("239.1.")]
        for interface, groups in known(daemon).items()
    }


def test_igmpproxy(lab: Lab) -> None:
    """source s0 -- r0 relay r1 -- k0 one; r2 -- k0 two."""
    source, relay, one, two = lab.hosts("source", "relay", "one", "two")
    lab.link(source, "s0", ["10.1.0.2/24"], relay, "r0", ["10.1.0.5/24"])
    for interface, host, at in (("r1", one, 2), ("r2", two, 3)):
        lab.link(relay, interface, [f"10.{at}.0.5/24"], host, "k0", [f"10.{at}.0.9/24"])
        host.run("ip", "route", "add", "10.1.0.0/24", "via", f"10.{at}.0.5")
    file = lab.file("igmpproxy.conf")
    file.write_text(CONFIGURATION)
    command = (console_script("mcrctl"), "import", str(file))
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    daemon = lab.mcrd(relay, made + METRICS)
    wait_for(lambda: wanted(daemon) == {"r1": [], "r2": []}, "the queriers to be open")
    assert daemon.status()["rules"] == {"idle": 1}

    def groups(interface: str) -> int:
        """Of the metric, how many groups that network wants: of any program on its hosts."""
        text = scrape(daemon)
        found = re.search(
            rf'^mcrd_members_groups{{interface="{interface}",protocol="igmp"}} (\d+)',
            text,
            re.MULTILINE,
        )
        assert found is not None, text
        return int(found[1])

    def is_counted() -> bool:
        """Whether the metric has as many as are named."""
        return all(groups(interface) == len(those) for interface, those in known(daemon).items())

    wait_for(is_counted, "the metric to have what there is")
    first = one.receive("k0", "239.1.7.7", 5000)
    wait_for(lambda: wanted(daemon) == {"r1": ["239.1.7.7"], "r2": []}, "the join to be heard")
    wait_for(is_counted, "the metric to have it as well")
    told = daemon.ctl("members").stdout
    assert re.search(r"^    239\.1\.7\.7  for \d+ s, IGMPv3$", told, re.MULTILINE), told
    assert "r1  IGMP  10.2.0.5 asks (this host)" in told
    only = two.receive("k0", "239.1.7.7", 5000, source="10.1.0.2")
    other = two.receive("k0", "239.1.7.8", 5000, source="10.1.0.77")
    both = {"r1": ["239.1.7.7"], "r2": ["239.1.7.7", "239.1.7.8"]}
    wait_for(lambda: wanted(daemon) == both, "the other joins to be heard")

    def sent() -> list[int]:
        found = daemon.stats()["rules"]["r0-239.1.0.0-16"]["outputs"]
        return [each["sent"]["packets"] for each in found]

    def flows() -> bool:
        went = sent()
        source.send("s0", "239.1.7.7", 5000, count=1, size=100)
        wait_for(lambda: sent() != went, "one to be sent")
        return sent() == [each + 1 for each in went]

    wait_for(flows, "the stream to flow to both")
    went = sent()
    source.send("s0", "239.1.7.7", 5000, count=100, size=100)
    source.send("s0", "239.1.7.8", 5000, count=100, size=100)  # nobody wants this source of it
    wait_for(lambda: sent() == [each + 100 for each in went], "both to get what they want")
    assert first.stop()["unique"] >= 100
    assert only.stop()["unique"] >= 100
    assert other.stop()["unique"] == 0
    wait_for(lambda: wanted(daemon) == {"r1": [], "r2": []}, "the leaves to be believed")
    wait_for(lambda: daemon.status()["rules"] == {"idle": 1}, "nobody to be left")
