"""What makes packages, and what else the Makefile calls."""

# SPDX-License-Identifier: GPL-3.0-or-later
