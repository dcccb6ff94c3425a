"""What the daemon answers on the control socket: the JSON of mcrctl(1), as types of both ends.

Each end may be of another version. What a newer one adds, an older one passes over; what an older
one does not say has its default. PROTOCOL grows when an answer can no longer be read like that.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct, field

PROTOCOL = 1


class Reply(Struct):
    """`errors` is empty when the request was carried out; `logged`: they are in the log, too."""

    result: Any = None
    errors: list[str] = []
    logged: bool = False
    protocol: int = 1
    """1 of daemons that do not say it."""


class Answer(Struct):
    """What is answered to a `command`."""

    command: ClassVar[str] = ""


class Trouble(Struct):
    """Why a rule waits or has failed."""

    state: str = ""
    reason: str | None = None


class Changes(Answer):
    """What differs between two rule files, and the same in words."""

    added: list[str] = []
    removed: list[str] = []
    changed: dict[str, list[str]] = {}
    unchanged: int = 0
    daemon: list[str] = []
    interfaces: dict[str, list[str]] = {}
    metrics: list[str] = []
    text: list[str] = []


class Reload(Changes):
    """What a reload changed, and the rules that wait or have failed."""

    command = "reload"
    troubled: dict[str, Trouble] = {}


class Diff(Changes):
    """What a reload would change, of one rule; `refused`: why the file is refused."""

    command = "diff"
    refused: list[str] = []


class Use(Answer):
    """Which input of a rule is used from now on, in words."""

    command = "use"
    text: list[str] = []


class Roles(Answer):
    """Which rules stand by, or not, from now on, in words."""

    command = "role"
    text: list[str] = []


class Sandbox(Struct):
    """The sandbox of the workers; `missing` are layers that some lack, and why."""

    mode: str = ""
    missing: dict[str, str] = {}


class Privileges(Struct):
    """What the daemon may do."""

    uid: int = 0
    gid: int = 0
    capabilities: list[str] = []
    no_new_privs: bool = False


class Lost(Struct):
    """Lines and notices that nobody took."""

    log: int = 0
    service_manager: int = 0


class Metrics(Struct):
    """Where the metrics are, and why not."""

    listen: str | None = None
    error: str | None = None


class Worker(Struct):
    """A worker process; `layers` are those of its sandbox that hold.

    `engine` is what it waits and sends with: "io_uring" or "poll".
    """

    interface: str = ""
    number: int = 0
    pid: int = 0
    cpu: int | None = None
    state: str = ""
    restarts: int = 0
    layers: list[str] = []
    missing: list[str] = []
    engine: str = ""


class HostName(Struct):
    """What DNS has of a name, or had when it answered last; `trouble` is why nothing better."""

    addresses: list[str] = []
    trouble: str = ""


class Status(Answer):
    """The daemon; `rules` are numbers by state, `chosen` inputs that are used by hand.

    `roles` are rules that are active or stand by because somebody said so. `names` are those of
    receivers, with their addresses in DNS. `unasked` are interfaces where nobody asked hosts for
    their groups in the last minutes, with "igmp", "mld" or both.
    """

    command = "status"
    version: str = ""
    pid: int = 0
    network_namespace: int | None = None
    uptime_s: float = 0.0
    config: str = ""
    config_errors: list[str] = []
    watch_trouble: str = ""
    pending: bool = False
    summary: str = ""
    rules: dict[str, int] = {}
    sandbox: Sandbox = field(default_factory=Sandbox)
    privileges: Privileges = field(default_factory=Privileges)
    lost: Lost = field(default_factory=Lost)
    metrics: Metrics = field(default_factory=Metrics)
    chosen: dict[str, str] = {}
    roles: dict[str, str] = {}
    names: dict[str, HostName] = {}
    unasked: dict[str, list[str]] = {}
    workers: list[Worker] = []


class Input(Struct):
    """The input of a rule; `interface_now` is its interface's own name, None: there is none.

    `broadcasts` are the addresses of networks that it takes as well.
    """

    interface: str = ""
    address: str = ""
    port: int | str = 0
    protocol: str = "udp"
    sources: list[str] = []
    exclude: list[str] = []
    vlan: int | None = None
    limit: int | None = None
    dedupe_s: float | None = None
    broadcasts: list[str] = []
    interface_now: str | None = None
    rejoin_s: float | None = None


class Output(Struct):
    """An output of a rule; `interface_now` is the interface that it sends by."""

    interface: str | None = None
    address: str = ""
    port: int | str = 0
    ttl: int = 1
    dscp: int = 0
    source: str | None = None
    source_port: int | None = None
    loop: bool = False
    limit: int | None = None
    replies_s: float | None = None
    sources: list[str] = []
    exclude: list[str] = []
    sample: int = 1
    when: str | None = None
    interface_now: str | None = None
    state: str = ""
    reason: str | None = None
    retry_in_s: float | None = None


class Number(Struct):
    """Where a number stands in each datagram, as in the rule file."""

    offset: int = 0
    bytes: int = 0
    order: str = ""


class Switch(Struct):
    """One of several inputs of a rule, of which one is in use; it is number `input`, from 1.

    `in_use` is the rule of the one that is, `why` and `since` when, in seconds from the epoch;
    `chosen`: by hand. It was switched to `switches` times. `forgotten` are numbers of datagrams
    that were remembered for too short a time. The rest is as in the rule file.
    """

    input: int = 0
    used: bool = False
    in_use: str | None = None
    chosen: bool = False
    why: str = ""
    since: float | None = None
    switches: int = 0
    forgotten: int = 0
    silence_s: float = 0.0
    back_s: float | None = None


class Rule(Struct):
    """A rule with its settings and state."""

    state: str = ""
    reason: str | None = None
    retry_in_s: float | None = None
    description: str = ""
    place: str | None = None
    inspect: str | Number | None = None
    switch: Switch | None = None
    input: Input = field(default_factory=Input)
    outputs: list[Output] = []


class Rules(Answer):
    """Rules by their names."""

    command = "rules"
    rules: dict[str, Rule] = {}


class OneRule(Rules):
    """A rule, and the warnings about it."""

    warnings: list[str] = []


class Twice(Struct, frozen=True):
    """Some outputs of a rule, by their places, whose packets somebody else sends too.

    `by` is "mcrd" or "kernel". `inodes` are those of its sockets, where it is another mcrd;
    `group` that of the kernel's route.
    """

    rule: str
    by: str
    outputs: tuple[int, ...]
    inodes: tuple[int, ...] = ()
    uid: int | None = None
    group: str | None = None


class Listening(Struct):
    """A group that hosts of an interface want, from these sources (None: any).

    `version` is the oldest of IGMP or MLD that one of them speaks.
    """

    group: str
    sources: list[str] | None
    since_s: float
    version: int


class Asked(Struct):
    """What hosts of an interface say of groups, in "igmp" or "mld"; and who asks them.

    `elected`: this host does. `ignored` are reports that there was no room for, `unread` messages
    that there was no time for.
    """

    interface: str
    protocol: str
    querier: str | None
    elected: bool
    queries: int = 0
    reports: int = 0
    ignored: int = 0
    unread: int = 0
    malformed: int = 0
    groups: list[Listening] = []


class Members(Answer):
    """Who wants which groups, where this host asks for it."""

    command = "members"
    asked: list[Asked] = []


class Others(Answer):
    """Who else relays what the rules do; `unseen` is what could not be looked at."""

    command = "others"
    twice: list[Twice] = []
    unseen: list[str] = []
