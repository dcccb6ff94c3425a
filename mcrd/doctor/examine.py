"""All checks, in the order of the output."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pwd
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from mcrd import config
from mcrd.config import ConfigError
from mcrd.doctor import buffers, groups, kernel, limits, offloads, others, sysctls
from mcrd.doctor.demand import Demand
from mcrd.doctor.finding import Finding, unreadable
from mcrd.errors import words
from mcrd.events import counted
from mcrd.files import read_file
from mcrd.host.devices import devices, links
from mcrd.host.procfs import Host, Running
from mcrd.model import Config
from mcrd.planning import names
from mcrd.planning.links import Link
from mcrd.planning.patterns import expand
from mcrd.sockets import filters
from mcrd.words import few

SHOWN, MORE = 8, ", and {} more"  # names, or rules, in one line
SERVICE = "mcrd"  # the user of packaging and of `make install`


def examine(host: Host, path: Path, running: Running) -> list[Finding]:
    """Run all checks; those that need the rules only where these can be read."""
    rules, found = rule_file(path)
    elsewhere = network(host, running)
    here = all(finding.verdict != "trouble" for finding in elsewhere)
    named: list[Finding] = []
    here_now: Mapping[str, Link] = {}
    if rules is not None and here:
        rules, named, here_now = as_named_here(rules)
    told = [
        found,
        *for_service(path, running),
        daemon(running),
        *elsewhere,
        sandbox(running),
        kernel.version(host),
        *kernel.packet_sockets(running, kernel.try_packet_socket()),
        kernel.io_uring(
            host, running, kernel.try_io_uring(), rules.daemon.engine if rules else "auto"
        ),
        kernel.namespaces(host, running),
        kernel.clock(host),
        limits.inotify(host, running),
    ]
    if here:
        told += [*buffers.backlog(host), *buffers.fragments(host), others.routers(host), *named]
    if rules is not None:
        demand = Demand(rules)
        told += [limits.descriptors(host, running, demand), limits.memory(host, running, demand)]
        told += of_both(host, running, demand, here_now) if here else []
    return told


OTHERWISE = "use one of the names, or another input or output, in the rule file"
NARROWER = "a pattern that fewer interfaces match, or several rules"


def as_named_here(rules: Config) -> tuple[Config, list[Finding], Mapping[str, Link]]:
    """The rules with the interfaces' own names, findings about others, and the interfaces.

    By each of their names, as Links.
    """
    check, used = "interface names", names.used(rules)
    try:
        here = links()
    except OSError as error:
        return rules, [Finding(check, "unknown", f"cannot find out: {words(error)}")], {}
    before, rules = rules, expand(rules, here)
    twice = names.doubles(rules, here)
    found = [
        *(f"interfaces.{name} {why}" for name, why in twice.tables.items()),
        *(f"rules.{name}: {why}" for name, why in twice.inputs.items()),
        *(f"rules.{name}: outputs[{at}] {why}" for (name, at), why in twice.outputs.items()),
    ]
    also = [f"{name} is {own}" for name, own in sorted(names.aliases(used, here).items())]
    many = [line for line in rules.warnings if line not in before.warnings]
    told: list[Finding] = []
    if also:
        told.append(Finding(check, "ok", few(also, SHOWN, MORE)))
    for these, why, remedy in (
        (many, "those wait in vain", NARROWER),
        (found, "the later one waits", OTHERWISE),
    ):
        if these:
            told.append(Finding(check, "trouble", few(these, SHOWN, MORE), why, remedy))
    return names.config_here(rules, here), told, here


def of_both(
    host: Host, running: Running, demand: Demand, here: Mapping[str, Link]
) -> list[Finding]:
    """Checks that depend on the rule file and the network namespace."""
    return [
        *sysctls.memberships(host, demand),
        *buffers.filter_memory(host, filters.networks(demand.config, {})),
        *buffers.send_buffer(host),
        *sysctls.igmp_version(host, demand, running),
        *sysctls.ipv6(host, demand),
        *sysctls.low_ports(host, running, demand),
        *sysctls.neighbours(host, demand),
        *of_interfaces(host, running, demand, here),
        *groups.queriers(running, demand),
        others.programs(host, running, demand),
        *others.relays(host, running, demand, here),
    ]


def of_interfaces(
    host: Host, running: Running, demand: Demand, here: Mapping[str, Link]
) -> list[Finding]:
    """Checks that depend on the interfaces of the rules."""
    merged = [link.name for link in names.merging(demand.config, here)]
    try:
        found = devices([*demand.inputs(), *demand.outputs(), *merged])
    except OSError as error:
        return [Finding("interfaces", "unknown", f"cannot find out: {words(error)}")]
    return [
        *offloads.offloads(demand, found, host.release(), merged, running.rates),
        *sysctls.reverse_path(host, demand, found),
    ]


def rule_file(path: Path) -> tuple[Config | None, Finding]:
    """The rules, and findings about their file."""
    check, name = "rule file", shlex.quote(str(path))
    why = "checks that depend on the rules were skipped"
    try:
        read_file(str(path))
    except FileNotFoundError:
        why = f"mcrd does not start without it; {why}"
        remedy = "write one, as mcr.toml(5) says, or name it with --config"
        return None, Finding(check, "trouble", f"there is no {path}", why, remedy)
    except PermissionError:
        return None, Finding(check, "unknown", f"{path}: permission denied", why)
    except (OSError, ValueError):
        pass  # load() says it
    try:
        rules = config.load(path)
    except ConfigError as error:
        value = few(error.problems, 1, MORE)
        return None, Finding(check, "trouble", value, why, f"mcrctl check {name}")
    count = sum(rule.enabled for rule in rules.rules.values())
    return rules, Finding(check, "ok", f"{path}, {counted(count, 'rule')} enabled")


def for_service(path: Path, running: Running) -> list[Finding]:
    """A finding only where the service would not start, because its user may not read the file.

    A daemon that runs says it itself; with access control lists, the mode is not all.
    """
    check = "service"
    if running.status is not None:
        return []
    try:
        entry = pwd.getpwnam(SERVICE)
        about = path.stat()
        groups = os.getgrouplist(SERVICE, entry.pw_gid)
    except (KeyError, OSError, ValueError):
        return []
    if may_read(about, entry.pw_uid, groups):
        return []
    value = f"the user {SERVICE} seems unable to read {path}"
    why = "the service runs as that user, and does not start then"
    name = shlex.quote(str(path))
    remedy = f"chgrp {SERVICE} {name} && chmod g+r {name}"
    return [Finding(check, "unknown", value, why, remedy)]


def may_read(about: os.stat_result, uid: int, groups: Sequence[int]) -> bool:
    """Whether the user may read it: of owner, group and mode, the first that fits decides."""
    if about.st_uid == uid:
        return bool(about.st_mode & stat.S_IRUSR)
    if about.st_gid in groups:
        return bool(about.st_mode & stat.S_IRGRP)
    return bool(about.st_mode & stat.S_IROTH)


def daemon(running: Running) -> Finding:
    """A finding that says whether a daemon answers."""
    if running.status is None:
        why = "its limits and sandbox are not visible"
        return Finding("daemon", "unknown", running.silence, why)
    pid = f"pid {running.pid}" if running.pid is not None else "in another pid namespace"
    value = f"mcrd {running.status.version}, {pid}, {running.status.config}"
    if errors := running.status.config_errors:
        value = f"{value}: the file was refused: {few(errors, 1, MORE)}"
        why = "the rules that ran before still do"
        return Finding("daemon", "trouble", value, why, "mcrctl status")
    return Finding("daemon", "ok", value)


def network(host: Host, running: Running) -> list[Finding]:
    """A finding only where the daemon has another network than this process, or may have."""
    check = "network namespace"
    why = "if it is not that of this mcrctl, the results for the network do not hold for the daemon"
    if running.status is None:
        return []
    its = running.status.network_namespace
    try:
        own = host.network_namespace()
    except OSError as error:
        return [unreadable(check, "/proc/self/ns/net", words(error), why)]
    if own == f"net:[{its}]":
        return []
    if its is None:
        value = "the daemon is of another version, and does not tell"
        return [Finding(check, "unknown", value, why)]
    why = "interfaces, their sysctls and other programs were not checked: they are different here"
    remedy = f"nsenter --net=/proc/{running.pid}/ns/net mcrctl doctor"
    if running.pid is None:
        remedy = "run mcrctl in its container"
    return [Finding(check, "trouble", "the daemon is in another one", why, remedy)]


def sandbox(running: Running) -> Finding:
    """The layers that the workers have."""
    check = "sandbox"
    if running.status is None:
        return Finding(check, "unknown", "no daemon answers")
    if running.missing:
        value = "without " + ", ".join(f"{k} ({why})" for k, why in running.missing.items())
        why = "a compromised worker is confined less"
        return Finding(check, "trouble", value, why, "see SECURITY in mcrd(8)")
    if not running.workers:
        return Finding(check, "unknown", "no worker runs")
    layers = running.status.workers[0].layers
    value = f"all {len(layers)} layers hold in every worker: {', '.join(layers)}"
    return Finding(check, "ok", value)
