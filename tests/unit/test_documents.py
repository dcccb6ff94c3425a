"""Every rule file that a page shows is a good one, and its links lead somewhere."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from mcrd.cli import mcrd
from mcrd.config import parse
from tests.documents import EXAMPLE, MANUAL, PAGES, ROOT, recipes, rule_files

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in (*PAGES, MANUAL, EXAMPLE)
    for number, block in enumerate(rule_files(page))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_rule_files_of_the_pages_pass_without_a_warning(
    block: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mcr.toml"
    path.write_text(block)
    assert mcrd.main(["--config", str(path), "--check"]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith(": good\n")
    assert shown.err == ""


def test_the_rule_file_of_the_config_map_passes_without_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifests = (ROOT / "packaging/kubernetes/mcrd.yaml").read_text()
    block = manifests.split("  mcr.toml: |\n")[1].split("---\n")[0]
    test_rule_files_of_the_pages_pass_without_a_warning(dedent(block), tmp_path, capsys)


def test_there_are_such_rule_files() -> None:
    assert recipes()
    for page in ("README.md", MANUAL, EXAMPLE):
        assert rule_files(page), page


TTL = {
    "224.0.0.251": 255,
    "ff02::fb": 255,
    "224.0.0.252": 255,
    "ff02::1:3": 255,
    "239.255.255.250": 2,
    "ff02::c": 2,
    "ff05::c": 2,
}
SENT_ON = (5353, 5355, 1900, 3702, 5683)  # mDNS, LLMNR, SSDP, WS-Discovery, CoAP


def test_discovery_protocols_are_sent_with_the_ttl_that_they_want() -> None:
    """RFC 6762, section 11; RFC 4795, section 2.5; UPnP Device Architecture 2.0.

    On a port of theirs no other group is shown, so none is missed here.
    """
    shown = set()
    for page in (*PAGES, MANUAL, EXAMPLE):
        for text in rule_files(page):
            for rule in parse(text, page).rules.values():
                for output in rule.outputs:
                    if output.port in SENT_ON:
                        shown.add(page)
                        assert output.ttl == TTL[str(output.address)], f"{page}: {rule.name}"
    assert shown == {"docs/recipes.md", MANUAL, EXAMPLE}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_a_file_and_a_heading(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{page}: {target}"


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["core", "core-arm64"])
def test_the_core_of_the_tests_is_there(name: str) -> None:
    lines = (ROOT / "tests" / name).read_text().splitlines()
    for line in lines:
        path, _, test = line.partition("::")
        assert line.startswith("#") or f"def {test}" in (ROOT / path).read_text(), line
