"""Makes the attempts with one layer off at a time, and with one alone; for docs/security.md.

python -m tests.sandbox            prints it
python -m tests.sandbox --write    puts it into docs/security.md
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys

from tests.sandbox import harness, matrix


def main() -> int:
    """Runs it all: about six minutes."""
    with harness.quiet_network() as (triangle, helper):
        found = matrix.measure(triangle, helper, lambda what: print(what, file=sys.stderr))
    if "--write" in sys.argv[1:]:
        matrix.write(found)
    else:
        print(matrix.table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
