"""Every rule file that a page shows is a good one, and its links lead somewhere."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mcrd.cli import mcrd
from tests.documents import PAGES, ROOT, recipes, rule_files

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in PAGES
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


def test_there_are_such_rule_files() -> None:
    assert recipes()
    assert rule_files("README.md")


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
