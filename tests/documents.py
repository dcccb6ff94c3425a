"""The rule files that the pages show, taken out of them as they stand there."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/recipes.md", "docs/troubleshooting.md")


def rule_files(page: str) -> list[str]:
    """The text of every ```toml block of a page, also of those that are indented."""
    text = (ROOT / page).read_text()
    found = re.findall(r"^( *)```toml\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [block for _, block in found]


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
