"""Rings with what belongs to them: workers, members, memberships, memory and counts."""

# SPDX-License-Identifier: GPL-3.0-or-later
