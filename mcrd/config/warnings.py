"""What a rule file may say, but its author would want to know."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from mcrd.config.problems import key_text
from mcrd.config.rules import found_rules

if TYPE_CHECKING:
    from mcrd.config.problems import Report
    from mcrd.config.rules import Endpoint, FoundOutput, FoundRule
    from mcrd.config.walk import Fields
    from mcrd.model import Address

_LINK_LOCAL_GROUPS = IPv4Network("224.0.0.0/24")
_INTERFACE_SCOPE, _LINK_SCOPE = 1, 2  # of an IPv6 group


def warn(file: Fields, report: Report) -> None:
    """Report what is suspicious in the enabled rules of a file without errors."""
    rules = [rule for rule in found_rules(file, report) if rule.fields["enabled"]]
    listening = {rule.input: rule for rule in rules if rule.input}
    for rule in rules:
        for output in rule.outputs:
            _warn_ttl(output, report)
            _warn_feeding(rule, output, listening, report)


def _warn_ttl(output: FoundOutput, report: Report) -> None:
    address: Address = output.fields["address"]
    if output.fields["ttl"] is None and address.is_multicast and not _stays_on_link(address):
        report.absent(
            (*output.path, "ttl"),
            "1 by default, so the first router will drop it; "
            "set a higher ttl to cross routers, or ttl = 1 if none is to be crossed",
        )


def _warn_feeding(
    rule: FoundRule,
    output: FoundOutput,
    listening: dict[Endpoint, FoundRule],
    report: Report,
) -> None:
    fed = listening.get(output.endpoint) if output.endpoint else None
    if fed is None or any(back.endpoint == rule.input for back in fed.outputs):
        return  # both ways between two networks is how discovery protocols are relayed
    report.value(
        fed.input_path,
        f"never receives what {key_text(output.path)} ({report.place(output.path)}) sends: "
        "what this host sends is not relayed again",
    )


def _stays_on_link(group: Address) -> bool:
    if isinstance(group, IPv4Address):
        return group in _LINK_LOCAL_GROUPS
    return group.packed[1] & 0x0F in (_INTERFACE_SCOPE, _LINK_SCOPE)
