"""Rule files for tests, in the fewest words."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


def rule(name: str, source: str, *outputs: str, more: str = "") -> str:
    """A [rules.NAME] table: rule("cam", "r0 239.1.1.1 5000", "r1 239.2.2.2 6000 ttl=8")."""
    lines = ",\n".join(f"    {_end(output)}" for output in outputs)
    return f"[rules.{name}]\ninput = {_end(source)}\noutputs = [\n{lines},\n]\n{more}\n"


def _end(text: str) -> str:
    """interface address port key=value ...; "-" for one of the three that is not given."""
    interface, address, port, *settings = text.split()
    pairs = "".join(f", {setting.replace('=', ' = ')}" for setting in settings)
    where = "" if interface == "-" else f'interface = "{interface}"'
    if address != "-":
        where += f'{", " if where else ""}address = "{address}"'
    if port != "-":
        where += f", port = {port}" if port.isdigit() else f', port = "{port}"'
    return f"{{ {where}{pairs} }}"
