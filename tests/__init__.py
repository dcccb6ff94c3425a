"""The tests: unit, dataplane, network (real packets), system (real systemd), and the lab."""

# SPDX-License-Identifier: GPL-3.0-or-later
