"""The rule files that the pages show, taken out of them as they stand there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/recipes.md", "docs/troubleshooting.md")
MANUAL = "man/mcr.toml.5"
EXAMPLE = "etc/mcr.toml.example"


def rule_files(page: str) -> list[str]:
    """The rule files of a page: the whole example, what a manual shows, or all ```toml blocks."""
    text = (ROOT / page).read_text()
    if page == MANUAL:
        return re.findall(r"^\.Bd [^\n]*\n(\[.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL)
    if page == EXAMPLE:
        return [example(text)]
    found = re.findall(r"^( *)```toml\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [block for _, block in found]


def example(text: str) -> str:
    """etc/mcr.toml.example with all of it in use, but for what it includes."""
    text = re.sub(r"^# (?=\[|[a-z_.]+ *= )", "", text, flags=re.MULTILINE)
    return text.replace("/etc/mcr.d/", "/nonexistent/")


def recipes() -> dict[str, str]:
    """The rule files of docs/recipes.md by the name in their first line."""
    named = {}
    for block in rule_files("docs/recipes.md"):
        first = block.partition("\n")[0]
        assert first.startswith("# recipe: "), f"a block without a name: {first}"
        name = first.removeprefix("# recipe: ")
        assert name not in named, f"two recipes are called {name}"
        named[name] = block
    return named
