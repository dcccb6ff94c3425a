"""Who queries, who has joined what, who routes, and what came back: what others say."""

# SPDX-License-Identifier: GPL-3.0-or-later
