"""Copies of what drivers print, so that logs outlive Ray's memory of them."""

from __future__ import annotations

from collections.abc import Callable

from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.ray_jobs import RayJobs

COPY_EVERY_S = 1.0
# Ray hands out a job's whole log at every call: a long one is copied less often.
BYTES_PER_S = 2_000_000
LEFT_OUT = "[tandem: this log couldn't be had whole: its last lines follow]"
LOST = "[tandem: Ray no longer has the rest of this log]"


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
        self._cut: set[str] = set()  # submissions of whose logs the beginning is here, and no more is handed out

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
        if not final and (job.submission_id in self._cut or abs(now - self._copied_at.get(job.id, 0.0)) < every):
            return
        self._copied_at[job.id] = now
        log = self._ray.logs(job.submission_id)
        if log is not None:
            files.append_log(job.attempt, log.text)
            if not log.whole:
                self._cut.add(job.submission_id)
        if final:
            # Of a log whose node has gone Ray says that it is empty.
            if log is None or not log.whole or len(log.text.encode(errors="replace")) < files.log_bytes(job.attempt):
                self._complete(job, files)
            self._copied_at.pop(job.id, None)
            self._cut.discard(job.submission_id)

    def _complete(self, job: Job, files: JobFiles) -> None:
        """Its last lines behind what is there, which is where an error stands, and a word on what is missing."""
        last = self._ray.last_lines(job.submission_id)
        if last is not None:
            files.close_log(job.attempt, f"{LEFT_OUT}\n{last}")
        elif files.log_bytes(job.attempt):
            files.close_log(job.attempt, f"{LOST}\n")
