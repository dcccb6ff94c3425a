"""All checks, in the order in which they are told."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from pathlib import Path

from mcrd import config, filters
from mcrd.config import ConfigError
from mcrd.doctor import kernel, limits, offloads, others, sysctls
from mcrd.doctor.devices import devices
from mcrd.doctor.finding import Finding
from mcrd.doctor.host import Host, Running
from mcrd.doctor.needs import Needs
from mcrd.files import read_file
from mcrd.model import Config


def examine(host: Host, path: Path, running: Running) -> list[Finding]:
    """Looks at everything; what needs the rules only where they can be had."""
    rules, found = rule_file(path)
    return [
        found,
        daemon(running),
        sandbox(running),
        kernel.version(host),
        kernel.io_uring(host, kernel.try_io_uring()),
        kernel.namespaces(host, running),
        kernel.clock(host),
        *sysctls.fragments(host),
        others.routers(host),
        *(of_rules(host, running, rules) if rules is not None else ()),
    ]


def of_rules(host: Host, running: Running, rules: Config) -> list[Finding]:
    """What depends on the rule file."""
    needs = Needs(rules)
    return [
        limits.descriptors(host, running, needs),
        limits.memory(host, running, needs),
        *sysctls.memberships(host, needs),
        *sysctls.filter_memory(host, filters.networks(rules)),
        *sysctls.igmp_version(host, needs),
        *sysctls.neighbours(host, needs),
        *_offloads(host, needs),
        others.programs(host, running, needs),
        *sysctls.reverse_path(host, needs),
    ]


def _offloads(host: Host, needs: Needs) -> list[Finding]:
    try:
        found = devices([*needs.inputs(), *needs.outputs()])
    except OSError as error:
        return [Finding("offloads", "unknown", f"no interfaces: {error.strerror or error}")]
    return offloads.offloads(needs, found, kernel.release(host))


def rule_file(path: Path) -> tuple[Config | None, Finding]:
    """The rules, and what is to be said of their file."""
    check, why = "rule file", "what depends on the rules was not looked at"
    try:
        read_file(str(path))
    except FileNotFoundError:
        missing = "mcrd does not start without; what depends on the rules was not looked at"
        remedy = "write one, as mcr.toml(5) says, or name it with --config"
        return None, Finding(check, "trouble", f"there is no {path}", missing, remedy)
    except PermissionError:
        return None, Finding(check, "unknown", f"{path}: permission denied", why)
    except (OSError, ValueError):
        pass  # load() says it
    try:
        rules = config.load(path)
    except ConfigError as error:
        first, number = error.problems[0], len(error.problems)
        more = f", and {number - 1} more" if number > 1 else ""
        return None, Finding(
            check, "trouble", f"{first}{more}", why, f"mcrctl check {shlex.quote(str(path))}"
        )
    count = sum(rule.enabled for rule in rules.rules.values())
    return rules, Finding(check, "ok", f"{path}, {count} rule{'s' if count != 1 else ''} enabled")


def daemon(running: Running) -> Finding:
    """Whether there is one to ask."""
    if running.status is None:
        return Finding("daemon", "unknown", running.silence, "its limits and sandbox are not seen")
    value = f"mcrd {running.status['version']}, pid {running.pid}, {running.status['config']}"
    if running.status["config_errors"]:
        why = "the rules that ran before still do"
        return Finding("daemon", "trouble", f"{value}: the file was refused", why, "mcrctl status")
    return Finding("daemon", "ok", value)


def sandbox(running: Running) -> Finding:
    """The layers that the workers have."""
    check = "sandbox"
    if running.status is None:
        return Finding(check, "unknown", "no daemon answers")
    if running.missing:
        value = "without " + ", ".join(f"{k} ({why})" for k, why in running.missing.items())
        why = "somebody who takes a worker over by what he sends it is held less firmly"
        return Finding(check, "trouble", value, why, "see SECURITY in mcrd(8)")
    if not running.workers:
        return Finding(check, "unknown", "no worker runs")
    layers = running.status["workers"][0]["layers"]
    return Finding(check, "ok", f"all {len(layers)} layers hold in every worker")
