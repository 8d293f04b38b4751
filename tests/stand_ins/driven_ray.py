"""A fake Ray whose drivers do something, and which forgets nothing of it; for drills with a server that is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.orchestrator.fake_ray import FakeRayJobs
from tandem.orchestrator.ray_jobs import Log, Machine
from tandem.orchestrator.states import Observation
from tandem.runner.claim import claim, wanted


@dataclass
class Driver:
    """A process that Ray has started; it looks after its claim as the real one does."""

    submission_id: str
    folder: Path
    attempt: str
    ends: str
    works: bool = False
    over: bool = False

    def tick(self) -> str:
        """A second passes; Ray's word for it."""
        if not self.works:
            self.works = claim(self.folder, self.attempt)
            self.over = not self.works
            return "RUNNING" if self.works else "FAILED 75"
        if not wanted(self.folder, self.attempt):
            self.over = True
            return "FAILED -9"
        self.over = self.ends != "RUNNING"
        if self.ends == "SUCCEEDED":
            (self.folder / "result.json").write_text("{}")
        return self.ends


@dataclass
class DrivenRay(FakeRayJobs):
    """Each submission is begun at one tick and ends at the next one as `endings` says.

    Attributes:
        folder: Of a job, by its id.
        endings: By attempt, how its driver ends; else it succeeds.
        drivers: All that were ever started.
        on_call: Called before and after each call.
    """

    folder: Callable[[str], Path] = Path
    endings: dict[int, str] = field(default_factory=dict)
    drivers: list[Driver] = field(default_factory=list)
    on_call: Callable[[str], None] = lambda _: None

    @property
    def begun(self) -> Counter[str]:
        """How many drivers of each submission did anything."""
        return Counter(driver.submission_id for driver in self.drivers if driver.works)

    def tick(self) -> None:
        """Drivers go on, those too that Ray has forgotten."""
        for driver in self.drivers:
            if driver.over or "STOPPED" in self._status(driver.submission_id):
                driver.over = True
                continue
            status, _, code = driver.tick().partition(" ")
            if driver.submission_id in self._seen:
                printed = f"{driver.submission_id} {status}\n"
                self.set(driver.submission_id, status, printed=printed, exit_code=int(code) if code else None)

    def _status(self, submission_id: str) -> str:
        return self._seen.get(submission_id, Observation("MISSING")).status

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        self.on_call("submit")
        fresh = not self.down and submission_id not in self._seen
        super().submit(submission_id, entrypoint, runtime_env, metadata)
        if fresh:
            job_id, _, number = submission_id.rpartition(".")
            ends = self.endings.get(int(number), "SUCCEEDED")
            attempt = runtime_env["env_vars"]["TANDEM_ATTEMPT"]
            self.drivers.append(Driver(submission_id, self.folder(job_id), attempt, ends))
        self.on_call("submitted")

    def observe(self, submission_id: str) -> Observation:
        self.on_call("observe")
        return super().observe(submission_id)

    def stop(self, submission_id: str) -> None:
        self.on_call("stop")
        super().stop(submission_id)
        self.on_call("stopped")

    def logs(self, submission_id: str) -> Log | None:
        self.on_call("logs")
        return super().logs(submission_id)

    def machines(self) -> list[Machine] | None:
        self.on_call("machines")
        return super().machines()
