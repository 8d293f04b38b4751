"""The real command line in a folder of its own, and the processes of the cluster that it starts there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tandem.cli.client import Client
from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.orchestrator.local import Marks
from tandem.orchestrator.processes import marked

DEADLINE_S = 300.0
T = TypeVar("T")


class Tandem:
    """The command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        # RAY_* of the session's other cluster must not lead this one astray.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment = kept | {STORAGE_VARIABLE: str(self.storage)}
        self.command = [sys.executable, "-m", "tandem.cli.main"]

    def __call__(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def job(self, job_id: str) -> dict[str, Any]:
        """As ``tandem show --json``, without a process for it: for who looks again and again."""
        return Client(self.cluster).job(job_id)

    @property
    def cluster(self) -> Cluster:
        return Cluster.load(self.storage)

    def driver(self, job_id: str, among: Iterable[psutil.Process] | None = None) -> psutil.Process | None:
        """Of a job's current attempt; None before it has begun.

        Args:
            job_id: Whose.
            among: Where to look; None: on the whole machine.
        """
        place = f"tandem.runner {self.storage}/jobs/{job_id}"
        for process in psutil.process_iter() if among is None else among:
            try:
                # Ray starts it by a shell, which is replaced by it.
                if place in " ".join(process.cmdline()) and "python" in process.name():
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def processes(self) -> list[psutil.Process]:
        marks = Marks.of(self.storage)
        return marked(marks.ray) + marked(marks.server)


def until(look: Callable[[], T]) -> T:
    """What a look finds as soon as it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it didn't come about in time"
        time.sleep(0.1)
    return found
