"""What keeps single jobs from going on, while all others do."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tandem.errors import TandemError

logger = logging.getLogger(__name__)


class Troubles:
    """Those of the jobs that the control loop looks at; each is logged when it begins."""

    def __init__(self) -> None:
        self._before: Mapping[str, str] = {}
        self.now: dict[str, str] = {}
        """By job id, what was wrong in this turn, as people are told it."""

    def turn(self, *, whole: bool = True) -> None:
        """A turn begins; one that isn't whole doesn't look at every job."""
        self._before = self.now if whole else {**self._before, **self.now}
        self.now = {}

    def note(self, job_id: str, error: Exception, what_next: str) -> None:
        """Something went wrong with a job.

        Args:
            job_id: Which.
            error: One that nobody foresaw is logged with its traceback.
            what_next: What becomes of it, or what to do.
        """
        foreseen = isinstance(error, TandemError | OSError)
        what = (
            str(error)
            if foreseen
            else f"{type(error).__name__}: {error} (a fault of ours; the server's log says where)"
        )
        said = f"{what}: {what_next}"
        if self._before.get(job_id) != said and self.now.get(job_id) != said:
            logger.warning("%s: %s", job_id, said, exc_info=None if foreseen else error)
        self.now[job_id] = said
