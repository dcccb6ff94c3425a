"""Who else relays what a rule relays: another mcrd, the kernel's own multicast routing."""

# SPDX-License-Identifier: GPL-3.0-or-later
