"""What there has to be: resources, the plan that leads to them, and the states of rules. Pure."""

# SPDX-License-Identifier: GPL-3.0-or-later
