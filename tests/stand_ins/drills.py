"""What drills watch: jobs by their records, and a fine-tune by what its folder shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stand_ins.command_line import Tandem, until

from tandem.artifacts.job import CHECKPOINTS
from tandem.training import metrics
from tandem.training.artifact import METRICS
from tandem.training.checkpoints.store import checkpoint_folder, incomplete


def ends_once(tandem: Tandem, job_id: str, state: str = "SUCCEEDED") -> dict[str, Any]:
    """A job's record, which reached this state and no other, once, and in whose folder nobody works any more."""
    tandem("wait", job_id, "--timeout", "200", status=0 if state == "SUCCEEDED" else 1)
    job: dict[str, Any] = tandem.json("show", job_id)
    final = [event["state"] for event in job["events"] if event["state"] in ("SUCCEEDED", "FAILED", "STOPPED")]
    assert final == [job["state"]] == [state]
    assert [attempt["number"] for attempt in job["attempts"]] == list(range(1, len(job["attempts"]) + 1))
    until(lambda: tandem.driver(job_id) is None)
    return job


class Training:
    """A fine-tune, by what its folder shows.

    Args:
        tandem: Where it was submitted.
        job_id: The job.
        every: Steps from one checkpoint to the next.
    """

    def __init__(self, tandem: Tandem, job_id: str, every: int) -> None:
        self.id = job_id
        self.folder: Path = tandem.storage / "jobs" / job_id
        self._every = every

    def records(self) -> list[dict[str, Any]]:
        return metrics.read(self.folder / METRICS)

    def starts(self) -> list[dict[str, Any]]:
        return metrics.starts(self.records())

    def losses(self) -> list[float]:
        return [record["loss"] for record in metrics.steps(self.records())]

    def done(self, step: int, starts: int) -> None:
        """Wait for a step of the so manieth start, after a whole checkpoint."""

        def there() -> bool:
            steps = metrics.steps(self.records())
            saved = incomplete(checkpoint_folder(self.folder / CHECKPOINTS, step // self._every * self._every)) is None
            return len(self.starts()) >= starts and bool(steps) and steps[-1]["step"] > step and saved

        until(there)
