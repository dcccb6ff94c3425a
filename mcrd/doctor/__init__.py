"""What `mcrctl doctor` looks at: the host, against what the rule file needs. It changes nothing."""

# SPDX-License-Identifier: GPL-3.0-or-later

from mcrd.doctor.examine import examine
from mcrd.doctor.finding import Finding, Verdict
from mcrd.host.procfs import Host, Running

__all__ = ["Finding", "Host", "Running", "Verdict", "examine"]
