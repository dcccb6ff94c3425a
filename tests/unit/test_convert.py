"""mcrctl import: what it prints is a rule file, and says what it could not say."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from mcrd import config
from mcrd.cli import mcrctl
from mcrd.convert import ForeignError, fit, from_json5, from_smcroute, toml
from mcrd.model import Config, PortRange

if TYPE_CHECKING:
    from pathlib import Path

RUST = """
// As the Rust program has them.
{
  rules: [
    { name: "video",
      input: { interface: "eth0", group: "239.1.1.1", port: 5000 },
      outputs: [
        { group: '239.2.2.2', port: 6000, interface: "eth1", ttl: 4, },
        { group: "239.2.2.3", port: 6001, interface: "eth2" },
      ] },
    { name: "tunnel to \\n the moon!",
      input: { interface: "eth0", group: "239.1.1.5", protocol: "esp" },
      outputs: [{ group: "10.0.0.2", interface: "eth1" }], colour: "blue" },
    { name: "video", input: { interface: "eth3", group: "239.1.1.1", port: 5000, vlan_tag: 3 },
      outputs: [{ group: "239.2.2.9", port: 6000, interface: "eth1" }] },
  ],
  multicast_ttl: 9,
  pinning: { eth0: [0, 1], },
  pim: { rp: "10.0.0.1" },
  igmp: { querier: ["eth1"] },
  msdp: {},
}
"""

SMCROUTE = """
# From the manual of smcroute.
phyint eth0 enable ttl-threshold 11
mgroup from eth0 group 225.1.2.3
mgroup from eth0 group 225.9.9.9
ssmgroup from eth0 group 232.43.211.234 source 1.2.3.4
mroute from eth0 group 225.1.2.3 source 192.168.1.42 to eth1 eth2   # two of them
mroute from eth0 group 225.3.2.0/24 source 10.0.0.0/8 to eth1
mroute from eth0 group ff2e::42 to eth1
mroute from eth+ group 225.5.5.5 to eth1
include /etc/smcroute.d/*.conf
"""


def read(text: str) -> Config:
    """The result, which has to be a good rule file."""
    return config.parse(text, "result")


def test_the_rules_of_the_rust_program() -> None:
    text = toml(from_json5(RUST, "rules.json5"))
    found = read(text)
    assert list(found.rules) == ["video", "tunnel-to-the-moon", "video-2"]
    video = found.rules["video"]
    assert (video.input.interface, video.input.address, video.input.port) == (
        "eth0",
        ip_address("239.1.1.1"),
        5000,
    )
    assert [(o.interface, str(o.address), o.port, o.ttl) for o in video.outputs] == [
        ("eth1", "239.2.2.2", 6000, 4),
        ("eth2", "239.2.2.3", 6001, 9),
    ]
    assert found.rules["tunnel-to-the-moon"].input.protocol == "esp"
    assert (found.interfaces["eth0"].workers, found.interfaces["eth0"].cpus) == (2, (0, 1))
    remarks = [line for line in text.splitlines() if line.startswith("# !")]
    for word in ("pim: ", "igmp: ", "msdp: ", "colour: blue", "vlan_tag: 3"):
        assert sum(word in remark for remark in remarks) == 1, word


def test_the_routes_of_smcroute() -> None:
    text = toml(from_smcroute(SMCROUTE, "smcroute.conf"))
    found = read(text)
    assert list(found.rules) == [
        *("eth0-225.1.2.3", "eth0-225.3.2.0-24", "eth0-ff2e::42", "eth-225.5.5.5"),
    ]
    first = found.rules["eth0-225.1.2.3"]
    assert first.input.sources == (ip_network("192.168.1.42/32"),)
    assert first.input.port == PortRange(1, 65535)
    assert [(o.interface, o.source, o.ttl) for o in first.outputs] == [
        ("eth1", "keep", 16),
        ("eth2", "keep", 16),
    ]
    assert found.rules["eth0-225.3.2.0-24"].input.address == ip_network("225.3.2.0/24")
    assert [rule.enabled for rule in found.rules.values()] == [True] * 4
    assert found.rules["eth-225.5.5.5"].input.interface == "eth*"
    remarks = [line for line in text.splitlines() if line.startswith("# !")]
    for word in (
        *("ttl-threshold", "225.9.9.9 was joined", "232.43.211.234 was joined"),
        *("/etc/smcroute.d/", "any protocol", "keep"),
    ):
        assert sum(word in remark for remark in remarks) == 1, word


@pytest.mark.parametrize(
    "line",
    [
        "mroute from eth0 to eth1",
        "mroute from eth0 group 225.1.1.1",
        "route me",
        'mgroup from "eth0',
    ],
)
def test_what_smcroute_would_not_read_is_a_remark_among_the_rest(line: str) -> None:
    text = toml(from_smcroute(f"\n{line}\nmroute from eth0 group 225.9.9.9 to eth1\n", "f"))
    assert list(read(text).rules) == ["eth0-225.9.9.9"]
    assert f"# ! line 2: {line}: not understood" in text


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "f: <string>:1"),
        ("[]", "f: expected an object"),
        ("{ rules: 3 }", r"f: rules: expected an array, got 3"),
        ("{ rules: [3] }", r"f: rules\[0\]: expected an object, got 3"),
        ("{ rules: [{}] }", r"f: rules\[0\].input: expected an object, got None"),
        ("{ pinning: { eth0: 3 } }", "f: pinning: expected an array"),
    ],
)
def test_a_wrong_json5_file(text: str, where: str) -> None:
    with pytest.raises(ForeignError, match=where):
        from_json5(text, "f")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rules.json5"
    file.write_text(RUST)
    assert mcrctl.main(["import", str(file)]) == 0
    assert len(read(capsys.readouterr().out).rules) == 3
    file.write_text("{ rules: [{ name: 'x', input: { interface: 'eth0', group: '10.0.0.300' } }] }")
    assert mcrctl.main(["import", "--json", str(file)]) == 1
    told = capsys.readouterr()
    assert "10.0.0.300" in json.loads(told.out)["text"]
    assert "none of its rules" in told.err
    assert mcrctl.main(["import", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/none: cannot read: No such file or directory\n"
    (tmp_path / "smcroute.conf").write_text(SMCROUTE)
    assert mcrctl.main(["import", str(tmp_path / "smcroute.conf")]) == 0
    assert len(read(capsys.readouterr().out).rules) == 4


def fitted(text: str) -> tuple[Config, list[str]]:
    """The rules made of a smcroute.conf, and the remarks."""
    draft = from_smcroute(text, "f")
    assert fit(draft) == []
    made = toml(draft)
    return read(made), [line for line in made.splitlines() if line.startswith("# !")]


def test_routes_of_one_group_are_one_rule() -> None:
    found, remarks = fitted(
        "mroute from eth0 group 225.1.2.3 to eth1 eth1\n"
        "mroute from eth0 group 225.1.2.3 to eth2 eth1\n"
    )
    (rule,) = found.rules.values()
    assert [output.interface for output in rule.outputs] == ["eth1", "eth2"]
    assert any("with the outputs of line 2" in remark for remark in remarks)


def test_routes_of_one_group_and_several_sources_share_no_packet() -> None:
    """As in the kernel, where the entry of a source comes before the one of any source."""
    found, _ = fitted(
        "mroute from eth0 group 225.1.2.3 to eth1\n"
        "mroute from eth0 group 225.1.2.3 source 10.0.0.5 to eth2\n"
        "mroute from eth0 group 225.1.2.3 source 10.0.0.0/24 to eth3\n"
        "mroute from eth4 group 225.1.2.3 source 10.0.0.9 to eth3\n"
    )
    inputs = [
        ([str(s) for s in rule.input.sources], [str(s) for s in rule.input.exclude])
        for rule in found.rules.values()
    ]
    assert inputs == [
        ([], ["10.0.0.0/24"]),
        (["10.0.0.5/32"], []),
        (["10.0.0.0/24"], ["10.0.0.5/32"]),
        (["10.0.0.9/32"], []),
    ]


def test_what_is_wrong_in_a_line_is_a_remark_and_the_rest_is_converted() -> None:
    found, remarks = fitted(
        "mroute from eth0 group 225.8.8.300 to eth1\n"
        "mroute from eth0 group 225.1.1.0/24 to eth1\n"
        "mroute from eth0 group 225.1.1.7 to eth2\n"
        "mroute from eth0 group 225.2.2.2 to no/such eth3\n"
        "mroute from eth0 group 225.3.3.3 source 300.1.1.1 to eth1\n"
    )
    assert [
        (str(rule.input.address), [output.interface for output in rule.outputs])
        for rule in found.rules.values()
    ] == [("225.1.1.0/24", ["eth1"]), ("225.2.2.2", ["eth3"])]
    for words in (
        "line 1: mroute from eth0 group 225.8.8.300 to eth1: left out: input.address: expected",
        "line 3: mroute from eth0 group 225.1.1.7 to eth2: left out: input: overlaps",
        "left out, an output with interface = no/such",
        "line 5: mroute from eth0 group 225.3.3.3 source 300.1.1.1 to eth1: left out: input.sou",
    ):
        assert sum(words in remark for remark in remarks) == 1, (words, remarks)


def test_rules_of_the_rust_program_with_one_input_are_one_rule() -> None:
    given = '{ interface: "eth0", group: "239.1.1.1", port: 5000 }'
    draft = from_json5(
        "{ rules: ["
        f'{{ name: "a", input: {given}, outputs: [{{ group: "10.0.0.1", interface: "eth1" }}] }},'
        f'{{ name: "b", input: {given}, outputs: [{{ group: "10.0.0.2", interface: "eth1" }}] }},'
        "], pinning: { eth0: [1, 1] } }",
        "f",
    )
    assert fit(draft) == []
    found = read(toml(draft))
    assert [str(output.address) for output in found.rules["a"].outputs] == ["10.0.0.1", "10.0.0.2"]
    assert found.interfaces == {}
    assert "interfaces.eth0: left out: CPU 1 is listed twice" in toml(draft)


@pytest.mark.parametrize("text", ["", "# a comment\n", "hello\nworld\n", "{ a: 1 }", "mroute\n"])
def test_a_file_of_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "f").write_text(text)
    assert mcrctl.main(["import", str(tmp_path / "f")]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"{tmp_path}/f: mcrctl import understands nothing in it; it reads")
