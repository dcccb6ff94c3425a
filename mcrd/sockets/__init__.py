"""Every socket that takes a privilege or names an interface.

All functions raise OSError as the kernel gives it.
"""

# SPDX-License-Identifier: GPL-3.0-or-later
