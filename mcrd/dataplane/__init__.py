"""The worker process: what it does in C, and what the supervisor says to it.

Nothing in here imports anything of mcrd outside this package.
"""

# SPDX-License-Identifier: GPL-3.0-or-later
