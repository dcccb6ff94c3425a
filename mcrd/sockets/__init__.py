"""Every socket that takes a privilege or names an interface.

All functions raise OSError as the kernel gives it.
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from mcrd.sockets.egress import EgressSockets, lost_by, source_port
from mcrd.sockets.ingress import Geometry, IngressSocket, open_ingress, open_reception
from mcrd.sockets.membership import Memberships, Receivers, open_hold
from mcrd.sockets.rejoin import Repeater, Said

__all__ = [
    "EgressSockets",
    "Geometry",
    "IngressSocket",
    "Memberships",
    "Receivers",
    "Repeater",
    "Said",
    "lost_by",
    "open_hold",
    "open_ingress",
    "open_reception",
    "source_port",
]
