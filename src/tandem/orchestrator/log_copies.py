"""Copies of what drivers print, so that logs outlive Ray's memory of them."""

from __future__ import annotations

from collections.abc import Callable

from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.ray_jobs import RayJobs

COPY_EVERY_S = 1.0
# Ray hands out a job's whole log at every call: a long one is copied less often.
BYTES_PER_S = 2_000_000


class LogCopies:
    """Knows when each job's log was copied last.

    Args:
        ray: Has the logs.
        clock: Seconds since the epoch.
    """

    def __init__(self, ray: RayJobs, clock: Callable[[], float]) -> None:
        self._ray = ray
        self._clock = clock
        self._copied_at: dict[str, float] = {}

    def copy(self, job: Job, files: JobFiles, *, final: bool) -> None:
        """Add what was printed since the last time, if it is time to.

        Args:
            job: An active one.
            files: Its folder.
            final: Whether its attempt has ended: then it is.

        Raises:
            OSError: The copy can't be written.
        """
        now = self._clock()
        every = max(COPY_EVERY_S, files.log_bytes(job.attempt) / BYTES_PER_S)
        # The clock may have been set back meanwhile.
        if not final and abs(now - self._copied_at.get(job.id, 0.0)) < every:
            return
        self._copied_at[job.id] = now
        text = self._ray.logs(job.submission_id)
        if text is not None:
            files.append_log(job.attempt, text)
        if final:
            self._copied_at.pop(job.id, None)
