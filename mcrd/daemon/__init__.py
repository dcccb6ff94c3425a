"""The supervisor, and what it alone needs."""

# SPDX-License-Identifier: GPL-3.0-or-later
