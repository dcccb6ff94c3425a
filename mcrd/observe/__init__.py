"""The only rooms where the supervisor reads somebody else's bytes."""

# SPDX-License-Identifier: GPL-3.0-or-later
