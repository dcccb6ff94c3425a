"""What others say: who queries, who has joined what, who routes, and what came back."""

# SPDX-License-Identifier: GPL-3.0-or-later
