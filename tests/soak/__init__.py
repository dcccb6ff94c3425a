"""Half an hour of traffic while all changes that may: `make soak`."""

# SPDX-License-Identifier: GPL-3.0-or-later
