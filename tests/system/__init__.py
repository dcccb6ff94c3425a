"""The packaged service: systemd, units, files as installed."""

# SPDX-License-Identifier: GPL-3.0-or-later
