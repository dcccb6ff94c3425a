"""What interfaces let in without a join: groups, or all of them."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import socket
import struct

from mcrd.planning.resources import Reception
from mcrd.sockets.common import SOL_PACKET, check_index, hardware_of

# linux/if_packet.h
PACKET_ADD_MEMBERSHIP = 1
PACKET_DROP_MEMBERSHIP = 2
PACKET_MR_MULTICAST = 0
PACKET_MR_ALLMULTI = 2


class Receptions(dict[Reception, socket.socket]):
    """What is let in, all over one packet socket, as long as that is open (packet(7)).

    Members of groups may cause a thousand of them. A socket each would take a descriptor, and to
    close one takes the kernel 5 to 30 ms (synchronize_net()).
    """

    def open(self, reception: Reception) -> None:
        """Let it through the interface's filter; nothing is ever received on the socket."""
        check_index(reception.interface, reception.index)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        sock = next(iter(self.values()), None) or socket.socket(socket.AF_PACKET, kind)
        try:
            sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, _request(reception))
        except OSError:
            if not self:
                sock.close()
            raise
        self[reception] = sock

    def end(self, reception: Reception) -> None:
        """Let it in no more. The kernel counts: of two with one hardware address, one stays."""
        sock = self.pop(reception)
        # It does not fail: an interface that has gone has forgotten it (packet_mc_drop()).
        sock.setsockopt(SOL_PACKET, PACKET_DROP_MEMBERSHIP, _request(reception))
        if not self:
            sock.close()


def _request(reception: Reception) -> bytes:
    """A struct packet_mreq."""
    if reception.group is None:
        kind, hardware = PACKET_MR_ALLMULTI, b""
    else:
        kind, hardware = PACKET_MR_MULTICAST, hardware_of(reception.group)
    return struct.pack("iHH8s", reception.index, kind, len(hardware), hardware)
