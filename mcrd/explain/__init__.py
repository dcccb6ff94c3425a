"""Why nothing flows: what `mcrctl explain` finds out about the path of a packet through a rule."""

# SPDX-License-Identifier: GPL-3.0-or-later
