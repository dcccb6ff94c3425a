"""mcrctl import of other relays: samplicator, igmpproxy, and those that have a command line."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from mcrd import config
from mcrd.cli import mcrctl
from mcrd.model import BROADCAST, Config, Network, Output, Rule

if TYPE_CHECKING:
    from pathlib import Path

Imported = tuple[Config, list[str]]


def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> Imported:
    """What is made of a file, which has to be good, and the remarks."""
    (tmp_path / "f").write_text(text)
    assert mcrctl.main(["import", str(tmp_path / "f")]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    remarks = [line.removeprefix("# ! ") for line in told.out.splitlines() if line[:3] == "# !"]
    return config.parse(told.out, "result"), remarks


def ways(found: Config) -> set[tuple[str, ...]]:
    """From which interface to which, of which address and port."""
    return {
        (rule.input.interface, str(output.interface), f"{rule.input.address}:{rule.input.port}")
        for rule in found.rules.values()
        for output in rule.outputs
    }


def only(found: Config) -> Rule:
    (rule,) = found.rules.values()
    return rule


def where(output: Output) -> str:
    return f"{output.address}:{output.port}"


SAMPLICATOR = """
# who: where
0.0.0.0/0.0.0.0: 10.0.0.9/9996   # all
10.20.20.20:10.0.0.3/2057 10.0.0.4/9996/5,9 10.0.0.9/9996
10.30.0.0/255.255.0.0:10.0.0.3/2057 collector.example.net/1
10.30.0.0/255.0.255.0: 10.0.0.5
10.40.0.0/16: 10.0.0.4/9996
[2001:db8::]/32: [2001:db8::9] 10.0.0.3
"""


def test_the_configuration_of_samplicator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, remarks = imported(tmp_path, capsys, SAMPLICATOR)
    four, six = found.rules.values()
    assert (four.enabled, six.enabled, str(four.input.address)) == (False, False, "192.0.2.1")
    assert [where(output) for output in four.outputs] == [
        *("10.0.0.9:9996", "10.0.0.3:2057", "10.0.0.4:9996")
    ]
    everything, two, sampled = four.outputs
    assert everything.sources == ()
    assert two.sources == (ip_network("10.20.20.20/32"), ip_network("10.30.0.0/16"))
    assert (sampled.sample, sampled.ttl, two.sample, two.ttl) == (5, 9, 1, 64)
    assert [where(output) for output in six.outputs] == ["2001:db8::9:2000", "10.0.0.3:2000"]
    for text in (
        "line 5: 10.30.0.0/255.255.0.0:10.0.0.3/2057 collector.example.net/1: "
        "collector.example.net/1: left out: not an address",
        "line 6: 10.30.0.0/255.0.255.0: 10.0.0.5: not understood",
        "line 7: 10.40.0.0/16: 10.0.0.4/9996: 10.0.0.4/9996: left out: this receiver is there",
        "192.0.2.1 stands for the address of this host",
    ):
        assert sum(remark.startswith(text) for remark in remarks) == 1, text


def test_the_command_line_of_samplicator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sam.conf").write_text("10.1.0.0/16: 10.0.0.3/2057\n")
    text = (
        "ExecStart=-/usr/bin/samplicate -S -s 192.0.2.9 -fp2055 -x 10 -c sam.conf -c no 10.0.0.1/1"
    )
    found, remarks = imported(tmp_path, capsys, f"[Service]\n{text}\n")
    rule = only(found)
    assert (str(rule.input.address), rule.input.port, rule.enabled) == ("192.0.2.9", 2055, True)
    assert [(where(o), o.source, o.sources) for o in rule.outputs] == [
        ("10.0.0.3:2057", "keep", (ip_network("10.1.0.0/16"),)),
        ("10.0.0.1:1", "keep", ()),
    ]
    for text in ("-f: needs no equivalent", "-x 10: mcrd sends", "no: left out: cannot be read"):
        assert sum(remark.startswith(f"line 2: samplicate: {text}") for remark in remarks) == 1


@pytest.mark.parametrize(
    ("line", "address", "outputs"),
    [
        (
            "udp-broadcast-relay-redux --id 1 --port 6112 --dev a --dev b",
            BROADCAST,
            [("broadcast:6112", "keep", None, 64)],
        ),
        (
            "udp-broadcast-relay-redux --id 1 --port 5353 --dev a --dev b --multicast 224.0.0.251"
            " -s 1.1.1.1 -f &",
            "224.0.0.251",
            [("224.0.0.251:5353", None, 5353, 255)],
        ),
        (
            "udp-broadcast-relay-redux -id 1 --port 9 --dev a --dev b -s 1.1.1.2 -t 255.255.255.255"
            " --multicast 239.1.1.1",
            "239.1.1.1",
            [("broadcast:9", None, 9, 64)],
        ),
        (
            "udpbroadcastrelay --id 1 --port 137 --dev a --dev b --multicast 239.1.1.1 -t",
            "239.1.1.1",
            [("239.1.1.1:137", "keep", None, 64)],
        ),
        ("udp-broadcast-relay -f 1 6112 a b", BROADCAST, [("broadcast:6112", "keep", None, 64)]),
        ("mdns-repeater -f a b", "224.0.0.251", [("224.0.0.251:5353", None, 5353, 255)]),
    ],
)
def test_command_lines(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    address: object,
    outputs: list[tuple[object, ...]],
) -> None:
    found, _ = imported(tmp_path, capsys, f"#!/bin/sh\n# mdns-repeater x y\n/usr/sbin/{line}\n")
    assert len(found.rules) == 2
    assert {(i, o) for i, o, _ in ways(found)} == {("a", "b"), ("b", "a")}
    for rule in found.rules.values():
        assert str(rule.input.address) == str(address)
        told = [(where(o), o.source, o.source_port, o.ttl) for o in rule.outputs]
        assert told == outputs


def test_sources_of_broadcasts_and_what_has_no_equivalent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "udpbroadcastrelay --id 1 --port 137 --dev a \\\n  --dev b --blockcidr 10.1.2.3/8"
        " --msearch block,x --blockid 2 --colour blue\n"
        "mdns-repeater -w 192.168.1.1/24 a 10.0.0.0/24 b\nmdns-repeater c\n"
    )
    found, remarks = imported(tmp_path, capsys, text)
    assert ways(found) == {
        ("a", "b", "broadcast:137"),
        ("b", "a", "broadcast:137"),
        ("a", "b", "224.0.0.251:5353"),
        ("b", "a", "224.0.0.251:5353"),
    }
    assert found.rules["udp-137-a"].input.exclude == (ip_network("10.0.0.0/8"),)
    assert found.rules["mdns-b"].input.sources == (ip_network("192.168.1.0/24"),)
    assert [(o.source_port, o.ttl) for o in found.rules["mdns-b"].outputs] == [(5353, 255)]
    for text in (
        "line 1: udpbroadcastrelay: --msearch block,x: mcrd does not look into packets",
        "line 1: udpbroadcastrelay: --blockid 2: what comes back is known by its contents",
        "line 1: udpbroadcastrelay: --colour: not understood",
        "line 3: mdns-repeater: 10.0.0.0/24: left out: an interface goes by its name",
        "line 4: mdns-repeater: no rule: it takes two interfaces",
    ):
        assert text in remarks


def test_multicast_relay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "python3 /opt/multicast-relay.py --interfaces a b --relay 239.1.1.1:5000"
        " 255.255.255.255:7 --ttl 4 --aes secret --foreground"
    )
    found, remarks = imported(tmp_path, capsys, line)
    places = {place for _, _, place in ways(found)}
    assert places == {
        *("224.0.0.251:5353", "239.255.255.250:1900", "239.1.1.1:5000"),
        *("broadcast:1900", "broadcast:6969", "broadcast:7"),
    }
    by_place = {str(rule.input.address): rule.outputs[0] for rule in found.rules.values()}
    assert (by_place["224.0.0.251"].ttl, by_place["224.0.0.251"].source) == (255, None)
    assert (by_place["239.1.1.1"].ttl, by_place["239.1.1.1"].source) == (4, "keep")
    assert by_place["239.255.255.250"].source == "keep"
    assert "line 1: multicast-relay: --aes secret: no equivalent" in remarks


def test_multicast_relay_one_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "multicast-relay --interfaces a b c --noTransmitInterfaces c --masquerade b"
        " --noSonosDiscovery --ssdpUnicastAddr 10.0.0.1"
    )
    found, _ = imported(tmp_path, capsys, line)
    to = {(came, other) for came, other, _ in ways(found)}
    assert to == {("a", "b"), ("b", "a"), ("c", "a"), ("c", "b")}
    for rule in found.rules.values():
        expected = (2, 30.0) if rule.input.port == 1900 else (255, None)
        assert {(output.ttl, output.replies) for output in rule.outputs} == {expected}


IGMPPROXY = """
quickleave
phyint eth0 upstream  ratelimit 0  threshold 1
        altnet 10.0.0.0/8
        altnet 172.16.0.0/12
phyint eth1 downstream  ratelimit 100  threshold 1
    whitelist 239.1.1.0/28
    whitelist 239.2.2.2/32
phyint wlan0 disabled
frob
"""


def test_igmpproxy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, remarks = imported(tmp_path, capsys, IGMPPROXY)
    assert ways(found) == {
        ("eth0", "eth1", "239.1.1.0/28:1-65535"),
        ("eth0", "eth1", "239.2.2.2:1-65535"),
    }
    for rule in found.rules.values():
        assert rule.enabled
        assert rule.input.sources == (ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12"))
        assert [(o.source, o.ttl, o.when) for o in rule.outputs] == [("keep", 16, "members")]
    assert [name for name, table in found.interfaces.items() if table.querier] == ["eth1"]
    for text in (
        "line 2: quickleave",
        "line 6: phyint eth1 downstream: ratelimit",
        "line 10: frob",
    ):
        assert sum(remark.startswith(text) for remark in remarks) == 1
    several = "phyint a upstream\nphyint b downstream\nphyint c downstream\n"
    found, remarks = imported(tmp_path, capsys, several)
    assert only(found).enabled
    assert [(o.interface, o.when) for o in only(found).outputs] == [
        ("b", "members"),
        ("c", "members"),
    ]
    assert sorted(found.interfaces) == ["b", "c"]
    assert any("no whitelist" in remark for remark in remarks)


def test_groups_within_others_go_where_both_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "phyint up upstream whitelist 239.1.0.0/16\nphyint a downstream whitelist 239.1.1.0/24\n"
        "phyint b downstream\nphyint c downstream whitelist 239.1.2.3/32 whitelist 239.1.2.0/23\n"
        "phyint d downstream whitelist 239.9.9.1/24 whitelist 239.0.0.0/8\n"
    )
    found, remarks = imported(tmp_path, capsys, text)

    def goes(group: str) -> str:
        rules = [
            rule
            for rule in found.rules.values()
            if isinstance(rule.input.address, Network) and ip_address(group) in rule.input.address
        ]
        assert len(rules) == 1
        return "".join(str(output.interface) for output in rules[0].outputs)

    for group, names in (
        ("239.1.0.255", "bd"),
        ("239.1.1.0", "abd"),
        ("239.1.1.255", "abd"),
        ("239.1.2.3", "bcd"),
        ("239.1.3.255", "bcd"),
        ("239.1.255.255", "bd"),
        ("239.0.0.0", "d"),
        ("239.255.255.255", "d"),
    ):
        assert goes(group) == names
    assert len(found.rules) == 8 + 7 + 2
    assert not any("no whitelist" in remark for remark in remarks)
    up = "line 1: phyint up upstream: "
    first = up + "the groups of 239.1.0.0/16: 7 rules, without 239.1.1.0/24, 239.1.2.0/23: "
    assert any(remark.startswith(first) for remark in remarks)
    assert any("expected a prefix without host bits" in remark for remark in remarks)
    # One that would be very many rules is none, and a remark says for whom.
    lists = " ".join(f"whitelist 239.1.{n}.1" for n in range(0, 256, 8))
    text = f"phyint up upstream\nphyint a downstream {lists}\nphyint b downstream\n"
    found, remarks = imported(tmp_path, capsys, text)
    assert len(found.rules) == 32
    assert {to for _, to, _ in ways(found)} == {"a", "b"}
    assert any(
        "too many rules" in text and text.endswith(": b: only these of it") for text in remarks
    )
    assert any("no whitelist" in remark for remark in remarks)


def test_what_another_line_says_already_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, remarks = imported(tmp_path, capsys, "mdns-repeater a b\nmdns-repeater b c\n")
    assert {(came, to) for came, to, _ in ways(found)} == {("a", "b"), ("b", "a")}
    assert [remark for remark in remarks if "left out" in remark] == [
        "line 2: mdns-repeater: left out: same input as reflect.mdns"
    ]
