"""Real packets in network namespaces."""

# SPDX-License-Identifier: GPL-3.0-or-later
