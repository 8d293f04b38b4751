"""When the control loop turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from prometheus_client import Counter, Histogram

from tandem.orchestrator.actions import Action, Start
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.states import State

TURN_EVERY_S = 0.5
# While a job is on its way to its driver, which takes one or two seconds.
WATCHED_EVERY_S = 0.1
WATCHED_FOR_S = 10.0
LEAST_REST_S = 0.05
# The longest call to Ray has 30 s.
STALLED_AFTER_S = 60.0
# Why a turn failed.
DATABASE, UNFORESEEN = "database", "unforeseen"
_TURNS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Pace:
    """Twice a second; at once after a submission; ten times a second while a job is on its way.

    Args:
        clock: Seconds since some moment, by a clock that nobody sets.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # In no registry: several servers in one process (tests) would be counted as one.
        self.turns = Histogram(
            "tandem_control_loop_turn_seconds",
            "Duration of a turn of the control loop",
            buckets=_TURNS_S,
            registry=None,
        )
        self.failed_turns = Counter(
            "tandem_control_loop_failed_turns",
            "Turns that the database kept from their end, and those that failed in a way that nobody foresaw",
            labelnames=("why",),
            registry=None,
        )
        for why in (DATABASE, UNFORESEEN):
            self.failed_turns.labels(why)
        self._turn_began: float | None = None
        self._beat_at: float | None = None
        self._failing_since: float | None = None
        self._woken = threading.Event()
        self._watched = False
        self._turned_at = self._looked_at = 0.0

    def wake(self) -> None:
        """Have the next turn come at once: there is something to do."""
        self._woken.set()

    def rest(self) -> bool:
        """Wait until the next turn is due.

        Returns:
            Whether a quick one is enough: everything was looked at less than half a second ago.
        """
        self.beat()
        self._woken.wait(WATCHED_EVERY_S if self._watched else TURN_EVERY_S)
        # However many submissions come at once, turns don't follow each other without a pause.
        time.sleep(max(0.0, self._turned_at + LEAST_REST_S - time.monotonic()))
        self._woken.clear()
        self._turn_began = self._clock()
        return time.monotonic() - self._looked_at < TURN_EVERY_S

    def beat(self) -> None:
        """The loop goes on: it has come to the next job, or to the end of its turn."""
        self._beat_at = self._clock()

    def ended(self, *, well: bool, database: bool = True) -> None:
        """A turn is over.

        Args:
            well: False where it failed in a way that nobody foresaw.
            database: Whether the records could be used.
        """
        self.beat()
        if self._turn_began is not None:
            self.turns.observe(self._clock() - self._turn_began)
        if not database:
            self.failed_turns.labels(DATABASE).inc()
        if well:
            self._failing_since = None
            return
        self.failed_turns.labels(UNFORESEEN).inc()
        if self._failing_since is None:
            self._failing_since = self._clock()

    def idle_s(self) -> float:
        """For how many seconds the loop hasn't come further; one whose turns fail doesn't. 0 before it has begun."""
        since = [at for at in (self._beat_at, self._failing_since) if at is not None]
        return self._clock() - min(since) if since else 0.0

    def stalled_s(self) -> float:
        """The same, if that is too long; else 0."""
        seconds = self.idle_s()
        return seconds if seconds >= STALLED_AFTER_S else 0.0

    def looks(self) -> None:
        """Everything is looked at now."""
        self._looked_at = time.monotonic()

    def turned(self, *, watched: bool) -> None:
        """A turn is over; whether a job is on its way."""
        self._turned_at = time.monotonic()
        self._watched = watched


def on_its_way(jobs: Sequence[Job], actions: Sequence[Action], now: float) -> bool:
    """Whether a job is: when it begins to run is told at once, not half a second later.

    Args:
        jobs: As they were before the actions.
        actions: What was done.
        now: Seconds since the epoch.
    """
    starting = (job for job in jobs if job.state is State.STARTING)
    return any(isinstance(action, Start) for action in actions) or any(
        job.current.submitted_at > now - WATCHED_FOR_S for job in starting
    )
