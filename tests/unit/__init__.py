"""Pure parts: no privilege, no packet."""

# SPDX-License-Identifier: GPL-3.0-or-later
