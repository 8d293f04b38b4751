"""What all attempts of a job held of the machines: in a file of its folder, since a driver may die at any time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from tandem.config.files import write_whole

SPENT = "spent.json"


class Spent:
    """Adds up for how long workers held CPUs and GPUs, on top of what earlier attempts left in the file.

    Args:
        path: The file.
        cpus: Of each worker.
        gpus: Of each worker.
        since: When this attempt began, seconds since the epoch.
        clock: Tells the time.
    """

    def __init__(
        self, path: Path, *, cpus: float, gpus: float, since: float, clock: Callable[[], float] = time.time
    ) -> None:
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.cpu_s: float = earlier.get("cpu_s", 0.0)
        self.gpu_s: float = earlier.get("gpu_s", 0.0)
        self._path = path
        self._cpus = cpus
        self._gpus = gpus
        self._since = since
        self._clock = clock

    def count(self, workers: int) -> None:
        """Add the time since the last call, on so many workers."""
        now = self._clock()
        held = max(0.0, now - self._since) * workers  # a clock may be set back
        self._since = now
        self.cpu_s += held * self._cpus
        self.gpu_s += held * self._gpus
        write_whole(self._path, json.dumps({"cpu_s": self.cpu_s, "gpu_s": self.gpu_s}) + "\n", durable=False)
