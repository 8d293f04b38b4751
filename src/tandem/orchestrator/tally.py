"""What has become of all jobs, in numbers: counted from the records, so that a new server counts on from the last."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from tandem.orchestrator.database import Database
from tandem.orchestrator.states import FINAL, RETRIES, Reason, State
from tandem.orchestrator.tables import EventRow, JobRow
from tandem.specs import JOB_KINDS, RAY_KINDS

_COUNTED = (State.STARTING, State.RETRYING, *FINAL)
_NO_END = frozenset({Reason.SUBMITTED, Reason.ADMITTED, Reason.DRIVER_RUNS, Reason.DONE, Reason.STOPPED})
# All ways in which a job may end. Those of which there is none yet count 0: of a counter that begins with 1 nobody
# sees that it grew.
_ENDINGS = (
    (State.SUCCEEDED, Reason.DONE),
    (State.STOPPED, Reason.STOPPED),
    *((State.FAILED, reason) for reason in Reason if reason not in _NO_END | {Reason.PREEMPTED}),
)
_RETRIED = tuple(reason for reason in Reason if RETRIES[reason] is not None)


@dataclass(frozen=True)
class Totals:
    """How often what has happened, since there are records.

    Attributes:
        ended: By kind, state and reason.
        retries: Attempts that ended and were followed by another one, or will be; by kind and reason of the end.
        attempts: Attempts begun, by kind.
    """

    ended: Mapping[tuple[str, str, str], int]
    retries: Mapping[tuple[str, str], int]
    attempts: Mapping[str, int]


class Tally:
    """Counts the changes of state on record, each of them once; safe to use from several threads.

    Args:
        database: That of the job records.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counting = threading.Lock()
        self._seen = 0
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def totals(self) -> Totals:
        """As of now.

        The first call goes through all changes, for 100,000 jobs half a second at most, a later one through what has
        come since.

        Raises:
            DatabaseError: It can't be used now.
        """
        with self._counting:
            self._count()
            counts = dict(self._counts)
        ended = {(kind, str(state), str(reason)): 0 for kind in JOB_KINDS for state, reason in _ENDINGS}
        retries = {(kind, str(reason)): 0 for kind in RAY_KINDS for reason in _RETRIED}
        attempts = dict.fromkeys(RAY_KINDS, 0)
        for (kind, state, reason), times in counts.items():
            if state == State.STARTING:
                attempts[kind] = attempts.get(kind, 0) + times
            elif state == State.RETRYING:
                retries[kind, reason] = times
            else:
                ended[kind, state, reason] = times
        return Totals(ended, retries, attempts)

    def _count(self) -> None:
        # One thread of one server, the one that acts, makes these changes: what comes later has a higher number. What
        # callers write meanwhile (a submission) isn't looked at.
        query = (
            select(JobRow.kind, EventRow.state, EventRow.reason, func.count(), func.max(EventRow.seq))
            .join(JobRow, JobRow.id == EventRow.job_id)
            .where(EventRow.seq > self._seen, EventRow.state.in_([str(state) for state in _COUNTED]))
            .where(EventRow.reason != str(Reason.SUBMITTED))
            .group_by(JobRow.kind, EventRow.state, EventRow.reason)
        )
        with self._database.read() as session:
            found = session.execute(query).all()
        for kind, state, reason, times, _ in found:
            self._counts[kind, state, reason] += times
        self._seen = max([self._seen, *(last for *_, last in found)])
