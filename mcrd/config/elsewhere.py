"""What other programs call the keys of a rule file."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Final

_CALLED: Final = (
    ("address", "group groups mcast mcast_group multicast multicast_group maddr grp ip addr host"),
    ("address", "dst dest destination to daddr dst_ip dst_addr dst_address dest_address target"),
    ("address", "remote peer ip_address ipaddr destination_address"),
    ("source", "source_address source_ip src src_ip src_addr src_address saddr from bind local"),
    ("sources", "source_address source_ip src src_ip src_addr src_address saddr source from"),
    ("sources", "senders sender allow allowed include whitelist ssm"),
    ("exclude", "except deny denied block blacklist ignore"),
    ("interface", "iface dev device nic intf ifname if netdev port_name"),
    ("interfaces", "iface dev device nic intf interface ifaces devices nics"),
    ("port", "dport dst_port dest_port destination_port udp_port udp"),
    ("source_port", "sport src_port sourceport bind_port local_port"),
    ("input", "in from ingress incoming inbound upstream iif source src"),
    ("outputs", "out output to egress outgoing outbound downstream oif destination destinations"),
    ("outputs", "dst dest targets target forward"),
    ("ttl", "hop_limit hoplimit hops hop time_to_live multicast_ttl mcast_ttl ttl_set"),
    ("dscp", "diffserv codepoint traffic_class tclass"),
    ("loop", "loopback multicast_loop mcast_loop"),
    ("protocol", "proto"),
    ("sample", "sampling sampling_rate sample_rate one_in nth every"),
    ("vlan", "vlan_id vid tag vlanid"),
    ("limit", "rate rate_limit ratelimit max_rate pps"),
    ("packets_per_second", "pps rate packets max limit"),
    ("description", "comment remark title label name"),
    ("enabled", "active disabled on off"),
    ("inspect", "analyze analyse analysis inspection sequence continuity"),
    ("order", "endian endianness byte_order byteorder"),
    ("bytes", "size width length octets"),
    ("offset", "at position pos start"),
    ("silence", "timeout watchdog idle"),
    ("rules", "routes route mroute relay relays forward forwards streams"),
    ("reflect", "reflector reflectors reflects repeater repeat mirror discovery"),
    ("workers", "threads processes queues"),
    ("cpus", "cpu cores affinity pinning cpu_affinity"),
    ("ring_size", "buffer buffer_size rcvbuf ring"),
    ("log_level", "log loglevel verbosity debug"),
    ("listen", "bind address port"),
)


ELSEWHERE: Final[dict[str, list[str]]] = {}
"""Such a name to the keys that it may mean, of which a table has one or none."""
for _ours, _theirs in _CALLED:
    for _name in _theirs.split():
        ELSEWHERE.setdefault(_name, []).append(_ours)
