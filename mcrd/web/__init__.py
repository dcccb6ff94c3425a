"""The page of mcrd-web: what flows where, in a browser. A process of its own, which only reads."""

# SPDX-License-Identifier: GPL-3.0-or-later
