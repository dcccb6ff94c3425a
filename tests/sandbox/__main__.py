"""Makes the attempts with one layer off at a time, and with one alone; for docs/security.md.

python -m tests.sandbox            prints it, for both engines
python -m tests.sandbox --write    puts it into docs/security.md
"""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from functools import partial

from tests.sandbox import harness, matrix


def main() -> int:
    """Runs it all: about six minutes for each engine."""
    for engine in matrix.ENGINES:
        with harness.quiet_network() as (triangle, helper):
            found = matrix.measure(
                triangle, helper, partial(print, engine, file=sys.stderr), engine
            )
        if "--write" in sys.argv[1:]:
            matrix.write(found, engine)
        else:
            print(matrix.table(found, engine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
