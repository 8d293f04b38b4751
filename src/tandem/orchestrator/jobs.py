"""A job's record and its attempts, as the rest of the program sees them. Times are seconds since the epoch, UTC."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from tandem.orchestrator.resources import NOTHING, Demand, demand
from tandem.orchestrator.states import Reason, State
from tandem.specs import KINDS, QueueSpec


@dataclass(frozen=True)
class Submitter:
    """Who submits a job, and with what beside the spec.

    Attributes:
        user: Whose key it is submitted with.
        origin: What submits it, from which state of the code.
        before: Told the id of a job that has yet to start, before the record is there for anybody to start it.
        admin: Whether other people's jobs are its to change, too.
    """

    user: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[str], None] = lambda _: None
    admin: bool = False

    def may_change(self, user: str) -> bool:
        """Whether a job is its to change, by whose key that was submitted with."""
        return self.admin or self.user == user


@dataclass(frozen=True)
class Attempt:
    """One submission to Ray.

    Attributes:
        number: From 1.
        reason: Why it ended; None while it lives.
        submitted_at: When it was written down, just before it was submitted.
        starting_since: Since when it hasn't begun to work, or waits for workers again; None while it works.
        end_reason: Why we asked for its end; None if we didn't.
        end_message: The same in a sentence.
        end_asked_at: When that was written down.
        ended_at: When it had ended.
    """

    number: int
    reason: Reason | None
    submitted_at: float
    starting_since: float | None
    end_reason: Reason | None
    end_message: str
    end_asked_at: float | None
    ended_at: float | None


@dataclass(frozen=True)
class Job:
    """A job's record.

    Attributes:
        judged: Whether it was found to fit the cluster when it was submitted.
        first_at: When it became the first in its line; None if it never was.
        queue: How it is queued, of its spec.
        history: Its attempts, oldest first; none once it has ended.
        user: Whose key it was submitted with.
        origin: What submitted it, and from which state of the code: versions, git commit.
    """

    id: str
    name: str
    kind: str
    spec: dict[str, Any]
    state: State
    reason: Reason
    message: str
    attempt: int
    acknowledged: bool
    stop_requested: bool
    judged: bool
    not_before: float
    created_at: float
    started_at: float | None
    first_at: float | None
    ended_at: float | None
    queue: QueueSpec
    history: tuple[Attempt, ...]
    user: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def submission_id(self) -> str:
        """The id under which Ray knows the current attempt; the same however often it is asked for."""
        return f"{self.id}.{self.attempt}"

    @cached_property
    def fault(self) -> str:
        """Why this version can't run what another one took; empty where it can."""
        return self._read[1]

    @cached_property
    def demands(self) -> tuple[Demand, Demand]:
        """What it asks for of a cluster without GPUs, and of one with some.

        One that runs holds that too where this version would refuse its spec.
        """
        spec = self._read[0]
        try:
            given = self.spec if spec is None else spec
            return demand(given, gpus=False), demand(given, gpus=True)
        except (KeyError, TypeError):
            return NOTHING, NOTHING

    @cached_property
    def _read(self) -> tuple[dict[str, Any] | None, str]:
        # With the defaults of what wasn't there yet when it was submitted. The record keeps it as it was: the job's id
        # comes from that.
        try:
            return KINDS[self.kind].model_validate(self.spec).canonical(), ""
        except ValidationError as error:
            first = error.errors()[0]
            return None, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"

    @property
    def current(self) -> Attempt:
        """The attempt that lives, or the last one that did."""
        return self.history[-1]

    @property
    def waiting_since(self) -> float:
        """Since when a job waits that does."""
        return (self.history[-1].ended_at if self.history else None) or self.created_at


def queue_of(spec: Mapping[str, Any]) -> QueueSpec:
    """How a job is queued; of one that was submitted before there was a choice, as if it had made none."""
    return QueueSpec.model_validate(spec.get("queue", {}))


def iso(seconds: float | None) -> str | None:
    """A time as people and other programs are told it: ISO 8601, UTC."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
