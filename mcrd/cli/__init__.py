"""The command lines: argparse and printing, nothing else."""

# SPDX-License-Identifier: GPL-3.0-or-later
