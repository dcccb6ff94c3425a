"""The C data path and its Python side."""

# SPDX-License-Identifier: GPL-3.0-or-later
