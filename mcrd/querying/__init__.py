"""Who listens on an interface: groups as a router knows them, and the questions that find out."""

# SPDX-License-Identifier: GPL-3.0-or-later
