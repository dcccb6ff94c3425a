"""Changes one operator of the sources at a time, and looks which tests notice: `make mutate`."""

# SPDX-License-Identifier: GPL-3.0-or-later
