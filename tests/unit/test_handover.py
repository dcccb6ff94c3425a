"""What a supervisor of one version leaves, another understands."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from mcrd.daemon.index import pack, unpack
from mcrd.lanes.counts import OutputCount, RuleCount
from mcrd.model import Input, Output, PortRange, Rule
from mcrd.planning.resources import Egress, Ingress, Sending, Worker
from mcrd.sums import InspectCount

# Written by mcrd before it had a Sending.
BEFORE = json.loads((Path(__file__).parent / "handover.json").read_text("utf-8"))

WORKER = Worker(Ingress("r0", 2, 2, 1 << 20), 1, 3, True)
SOURCE = ip_address("10.2.0.1")
HOST = ip_address("10.9.0.2")
RANGE, PORTS = ip_network("239.2.2.0/28"), PortRange(6000, 6001)
VALUES = {
    "plain": Egress(
        *(WORKER, "a", Sending("r1", 3, SOURCE, ttl=4, dscp=34, source_port=7000, loop=True)),
        *(ip_address("239.2.2.2"), 6000),
    ),
    "of a range": Egress(
        *(WORKER, "b", Sending("r1", 3, SOURCE, ttl=8), ip_address("239.2.2.3"), 6001),
        of=("r1", RANGE, PORTS),
        heard=(ip_address("10.1.0.9"), 4000),
    ),
    "kept": Egress(
        *(WORKER, "c", Sending("r1", 3, ip_address("fd01::9"), ttl=8, source_port=4000)),
        *(ip_address("ff15::1"), 6000),
        transparent=True,
        of=("alias", ip_address("ff15::1"), 6000),
        heard=(ip_address("fd01::9"), 4000),
    ),
    "routed": Egress(
        *(WORKER, "d", Sending("r1", 3, SOURCE, "esp", True, ttl=64), HOST, 0),
        of=("", HOST, 0),
    ),
    "rule": Rule(
        "a",
        Input(
            *("r0", ip_network("239.1.1.0/28"), PortRange(5000, 5001)),
            sources=(ip_network("10.1.0.0/16"),),
            limit=10,
        ),
        (
            Output("r1", RANGE, PORTS, "keep", 5, ttl=4, dscp=34, loop=True),
            Output(None, ip_network("10.9.0.0/28"), PORTS, SOURCE, ttl=64, source_port=7000),
        ),
        silence=2.5,
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_version_before_and_this_one_understand_each_other(name: str) -> None:
    value, before = VALUES[name], BEFORE[name]
    assert unpack(before) == value
    assert hash(unpack(before)) == hash(value)
    assert json.loads(json.dumps(pack(value))) == before


@pytest.mark.parametrize(
    "field", ["worker", "rule", "interface", "index", "address", "port", "ttl", "source"]
)
def test_an_output_without_what_it_cannot_be_without_is_refused(field: str) -> None:
    name, content = BEFORE["plain"]
    with pytest.raises(TypeError):
        unpack([name, {key: value for key, value in content.items() if key != field}])


def test_an_output_without_a_source_is_refused() -> None:
    name, content = BEFORE["plain"]
    with pytest.raises(TypeError, match="source"):
        unpack([name, content | {"source": None}])


def test_an_output_without_the_keys_of_later_versions_has_their_defaults() -> None:
    name, content = BEFORE["plain"]
    later = ("dscp", "source_port", "loop", "protocol", "transparent", "of", "heard", "routed")
    found = unpack([name, {key: value for key, value in content.items() if key not in later}])
    assert found.sending == Sending("r1", 3, SOURCE, ttl=4)


def test_counts_that_say_nothing_new_are_as_versions_before_have_them() -> None:
    assert pack(RuleCount())[1].keys() == {"received", "dropped"}
    known = {"sent", "errors", "refused", "dropped", "unanswered"}
    assert pack(OutputCount())[1].keys() == known
    for count in (OutputCount(), RuleCount(), OutputCount(waiting=1, late=2, lost=3)):
        assert unpack(pack(count)) == count
    assert unpack(pack(RuleCount(inspect=InspectCount(lost=4)))).inspect.lost == 4
