"""What the host is like: interfaces, routes, neighbours, bridges, devices and /proc."""

# SPDX-License-Identifier: GPL-3.0-or-later
