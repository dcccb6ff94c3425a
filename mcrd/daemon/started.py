"""What the log says of a worker that has started."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import logging

from mcrd.events import tell
from mcrd.lanes.process import WorkerProcess

LAYERS = 64  # names of them that are remembered; there are not half as many

log = logging.getLogger(__name__)


class Started:
    """Lines about workers that have started; what all of them lack is said once."""

    def __init__(self) -> None:
        self._lacking: set[str] = set()  # layers of the sandbox that the log has named
        self._refused = ""  # why there is no io_uring, as the log has it

    def tell(self, process: WorkerProcess, frames: int) -> None:
        """Say that it has, with so many frames in its rings."""
        worker = process.worker
        text, what = "%s: pid %d, ring of %d frames, %s", (frames, process.engine)
        where = {"interface": worker.ingress.interface, "worker": worker}
        tell(log, logging.INFO, "worker-started", text, worker, process.pid, *what, **where)
        if process.refused and process.refused != self._refused:
            self._refused = process.refused
            text = 'workers wait with ppoll: %s; see "engine" in mcr.toml(5)'
            tell(log, logging.WARNING, "engine-poll", text, process.refused)
        new = {layer: why for layer, why in process.missing.items() if layer not in self._lacking}
        if new:
            if len(self._lacking) > LAYERS:  # a worker may say what it likes
                self._lacking.clear()
            self._lacking.update(new)
            text = "workers lack layers of their sandbox, see SECURITY in mcrd(8): %s"
            layers = "; ".join(f"{layer}: {why}" for layer, why in new.items())
            tell(log, logging.WARNING, "sandbox-layer-missing", text, layers)
