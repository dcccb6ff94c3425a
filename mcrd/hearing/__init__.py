"""Who queries, who has joined what, and who routes on the networks of this host."""

# SPDX-License-Identifier: GPL-3.0-or-later

from mcrd.hearing.heard import Heard
from mcrd.hearing.listener import Listener

__all__ = ["Heard", "Listener"]
