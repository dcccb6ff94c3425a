"""The benchmark of mcrd: all relays side by side on one topology. See docs/performance.md."""

# SPDX-License-Identifier: GPL-3.0-or-later
