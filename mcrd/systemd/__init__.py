"""The service manager: its journal, its notifications and its store of descriptors."""

# SPDX-License-Identifier: GPL-3.0-or-later
