"""`killed_index.py {"spec", "storage", "phase", "words", "moment"}`: an index job whose driver kills itself.

It does so when it says for the n-th time how far it is in a phase, or so many seconds later, wherever it is then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.retrieval import job, sync
from tandem.specs.index import IndexSpec


class KilledContext(JobContext):
    phase: str
    left: int
    moment: float

    def progress(self, phase: str, done: int, total: int | None = None, **figures: float | str) -> None:
        super().progress(phase, done, total, **figures)
        KilledContext.left -= phase == self.phase
        if not KilledContext.left:
            if self.moment:
                threading.Timer(self.moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)


def main(asked: dict[str, Any]) -> None:
    storage = Path(asked["storage"])
    KilledContext.phase, KilledContext.left, KilledContext.moment = asked["phase"], asked["words"], asked["moment"]
    sync.EMBED_BATCH = 8  # several batches, to be killed between two
    folder = storage / "jobs" / f"killed-{asked['phase']}"
    folder.mkdir(parents=True)
    spec = IndexSpec.model_validate(asked["spec"])
    job.run(spec, KilledContext(folder.name, spec.name, folder, storage, Cluster.load(storage)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
