"""Which of several servers on one database acts: it holds a lease, and renews it as long as it turns.

Another one takes over when the lease has expired by the database's clock, when it hasn't been renewed for as long as
that by the other's own clock (the database's may have been set back), or at once when the holder's process is seen to
have gone. Each time the lease's `epoch` grows, and a change of the records that was decided under an earlier one fails:
a server that was frozen in the middle of a turn does no harm when it wakes up.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import literal_column, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tandem.errors import TandemError
from tandem.orchestrator.database import Database
from tandem.orchestrator.holder import Holder, steady
from tandem.orchestrator.states import FINAL
from tandem.orchestrator.tables import AttemptRow, JobRow, LeaseRow

logger = logging.getLogger(__name__)

LEASE_S = 15.0
RENEW_EVERY_S = 3.0
# Clocks are corrected by less all the time; more is somebody who sets one.
JUMP_S = 1.0
_CONTROL = "control"
_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
}


class LeaseLostError(TandemError):
    """Another server acts: what this one had decided isn't done."""


@dataclass(frozen=True)
class Seen:
    """Another's lease as it was looked at, and when that was by our own clock."""

    epoch: int
    beat: int
    at: float


@dataclass(frozen=True)
class Renewed:
    """Our own lease: its epoch, our clock's offset that was written with it, and by how much that had changed."""

    epoch: int
    offset: float
    moved: float


class Lease:
    """This server's hold on the right to act.

    Args:
        database: That of the job records.
        holder: Who this server is.
        clock: Seconds since the epoch.
        steady: Seconds since some moment, by a clock that nobody sets.
    """

    def __init__(
        self,
        database: Database,
        holder: Holder,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady,
    ) -> None:
        self._database = database
        self._holder = holder
        self._clock = clock
        self._steady = steady
        self._renewed_at = -math.inf
        self._held: bool | None = None
        self._offset: float | None = None
        self._moved = 0.0  # of which `keep` has told nobody yet
        self._seen: Seen | None = None
        self.epoch: int | None = None
        """Of the lease that we hold; None where we hold none."""

    def keep(self) -> float | None:
        """Take or renew the lease if it is time to; called in each turn, and before whatever can't be undone.

        Where the clock was set since the last time, what is measured by it is moved along: nobody has waited or worked
        longer for it.

        Returns:
            By how many seconds the clock was set, mostly 0; None where another server acts.

        Raises:
            DatabaseError: It can't be used now; whoever holds the lease isn't known.
        """
        if not self._keep():
            return None
        moved, self._moved = self._moved, 0.0
        return moved

    def _keep(self) -> bool:
        began = self._steady()
        set_by = self._offset_now() - self._offset if self._offset is not None else 0.0
        if self.epoch is not None and began - self._renewed_at < RENEW_EVERY_S and abs(set_by) < JUMP_S:
            return True
        self._renewed_at = -math.inf  # whatever becomes of it, it isn't taken for renewed
        try:
            with self._database.write() as session:
                renewed = self._renew(session)
        except IntegrityError:
            # Another server made the row at the same time.
            renewed = None
        if renewed is None:
            self.epoch = None
        else:
            self.epoch, self._offset, self._renewed_at = renewed.epoch, renewed.offset, began
            self._moved += renewed.moved
        if self._held != (renewed is not None):
            logger.info("this server acts" if renewed else "another server acts: this one stands by")
        self._held = renewed is not None
        return self._held

    def check(self) -> None:
        """Before a call that can't be undone.

        Raises:
            LeaseLostError: Another server acts.
            DatabaseError: Whoever acts isn't known.
        """
        before = self.epoch
        # What was decided under a lease that was lost and won again may be wrong by now.
        if not self._keep() or self.epoch != before:
            raise LeaseLostError("another server acts on these job records")

    def release(self) -> None:
        """Let another server take over at once."""
        if self.epoch is None:
            return
        with self._database.write() as session:
            session.execute(
                update(LeaseRow).where(LeaseRow.name == _CONTROL, LeaseRow.epoch == self.epoch).values(expires_at=0.0)
            )
        self.epoch = None

    def _renew(self, session: Session) -> Renewed | None:
        row = session.get(LeaseRow, _CONTROL, with_for_update=True)
        now = float(session.scalar(select(literal_column(_NOW[session.get_bind().dialect.name]))) or 0.0)
        offset = self._offset_now()
        if row is None:
            row = LeaseRow(name=_CONTROL, holder="", epoch=0, beat=0, expires_at=0.0, boot="", clock_offset=offset)
            session.add(row)
        mine = row.holder == str(self._holder) and row.epoch == self.epoch
        if not mine:
            if not self._is_free(row, now):
                return None
            row.holder, row.epoch = str(self._holder), row.epoch + 1
        row.beat += 1
        row.expires_at = now + LEASE_S
        # What another machine's clock was set by isn't known.
        known = mine or (row.boot != "" and row.boot == self._holder.boot)
        moved = offset - row.clock_offset if known else 0.0
        if abs(moved) < JUMP_S:
            moved = 0.0
        else:
            logger.warning("the clock was set by %+.0f s: waiting and running times move along", moved)
            _move(session, moved)
        row.boot, row.clock_offset = self._holder.boot, offset
        session.flush()
        return Renewed(row.epoch, offset, moved)

    def _is_free(self, row: LeaseRow, now: float) -> bool:
        if row.expires_at <= now:
            return True
        holder = Holder.parse(row.holder)
        if holder is not None and holder.has_died(self._holder):
            return True
        seen = self._seen
        if seen is None or (seen.epoch, seen.beat) != (row.epoch, row.beat):
            self._seen = Seen(row.epoch, row.beat, self._steady())
            return False
        return self._steady() - seen.at >= LEASE_S

    def _offset_now(self) -> float:
        return self._clock() - self._steady()


def fence(session: Session, epoch: int) -> None:
    """Fail unless the lease is still that of an epoch; it stays so until the transaction has ended.

    Raises:
        LeaseLostError: Another server has taken over.
    """
    row = session.get(LeaseRow, _CONTROL, with_for_update={"read": True})
    if row is None or row.epoch != epoch:
        raise LeaseLostError("another server acts on these job records")


def _move(session: Session, seconds: float) -> None:
    """Move all times from which it is counted how long a job has waited or worked."""
    final = [str(state) for state in FINAL]
    jobs, attempts = JobRow, AttemptRow
    unended = select(jobs.id).where(jobs.state.not_in(final))
    measured = (attempts.submitted_at, attempts.starting_since, attempts.end_asked_at, attempts.ended_at)
    changes = [update(attempts).where(attempts.job_id.in_(unended)).values({time: time + seconds for time in measured})]
    shown = (jobs.created_at, jobs.started_at, jobs.first_at)
    changes.append(update(jobs).where(jobs.state.not_in(final)).values({time: time + seconds for time in shown}))
    waits = jobs.state.not_in(final) & (jobs.not_before > 0)
    changes.append(update(jobs).where(waits).values(not_before=jobs.not_before + seconds))
    for change in changes:
        session.execute(change, execution_options={"synchronize_session": False})
