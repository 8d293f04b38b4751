"""A circuit breaker: what fails again and again isn't called for a while (Nygard, Release It!, 2007)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Below Serve's own logger, whose files a replica writes.
logger = logging.getLogger("ray.serve.tandem")


class CircuitBreaker:
    """Opens after so many failures in a row; after a pause it is half-open: one call shows whether it works again.

    A call that is cancelled, or ends without having said how it went, changes nothing. Answers that don't begin and
    answers that break off are counted apart: where all break off, each has begun. A call from before the circuit
    opened says nothing of how things stand now.

    For one event loop: calls must not come from several threads.

    Args:
        name: What is called, for the log.
        failures: In a row, that open it.
        pause_s: That it stays open.
        clock: Seconds that never go back.
    """

    def __init__(self, name: str, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._limit, self._pause_s, self._clock = name, failures, pause_s, clock
        self._opened_at: float | None = None
        self._openings = 0
        self._probe: Call | None = None
        self._failures = {"not begun": 0, "broken off": 0}  # in a row

    @property
    def refuses(self) -> bool:
        """Whether no call may be made now: it is open, or half-open and being tried."""
        if self._opened_at is None:
            return False
        return self._probe is not None or self._clock() < self._opened_at + self._pause_s

    @contextmanager
    def call(self) -> Iterator[Call]:
        """Around a call, to be made only where it isn't refused; an `Exception` is a failure, a cancellation isn't."""
        call = Call(self, self._openings)
        if self._opened_at is not None:
            self._probe = call
        try:
            yield call
        except Exception as error:
            self._failed(call, type(error).__name__)
            raise
        finally:
            if self._probe is call:
                self._probe = None

    def _works(self, call: Call, failures: tuple[str, ...]) -> None:
        if call.openings != self._openings:
            return
        if self._opened_at is not None:
            logger.info("%s works again", self._name)
        self._opened_at = self._probe = None
        self._failures |= dict.fromkeys(failures, 0)

    def _failed(self, call: Call, error: str) -> None:
        if call.openings != self._openings:
            return
        self._failures["broken off" if call.has_begun else "not begun"] += 1
        # Half-open, it has been so many since it opened.
        if max(self._failures.values()) >= self._limit:
            logger.warning("%s fails again and again (%s): not called for %g s", self._name, error, self._pause_s)
            self._opened_at = self._clock()
            self._openings += 1


@dataclass(eq=False)
class Call:
    """A call under way, which says how it goes.

    Attributes:
        openings: How often the circuit had opened when it was made.
        has_begun: Whether its answer has.
    """

    _breaker: CircuitBreaker
    openings: int
    has_begun: bool = False

    def begun(self) -> None:
        """The first piece of its answer is there."""
        if not self.has_begun:
            self.has_begun = True
            self._breaker._works(self, ("not begun",))

    def succeeded(self) -> None:
        """Its answer is whole."""
        self._breaker._works(self, ("not begun", "broken off"))
