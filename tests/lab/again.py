"""Runs mcrctl again and again in one process: a line of JSON has arguments, one the outcome."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import io
import json
import sys

from mcrd.cli import mcrctl


def main() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            status = mcrctl.main(json.loads(line))
        print(json.dumps([status, out.getvalue(), error.getvalue()]), flush=True)


if __name__ == "__main__":
    main()
