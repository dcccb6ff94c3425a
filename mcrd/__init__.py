"""mcrd relays UDP multicast and unicast streams between the interfaces of a Linux host."""

# SPDX-License-Identifier: GPL-3.0-or-later

__version__ = "0.1.0"
