"""What a turn of the control loop may decide to do."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.orchestrator.states import Reason, State


@dataclass(frozen=True)
class Start:
    """Begin the next attempt: write it down, then submit it."""

    job_id: str


@dataclass(frozen=True)
class Submit:
    """Submit the current attempt again: the call was never answered."""

    job_id: str


@dataclass(frozen=True)
class Acknowledge:
    """Ray knows the current attempt."""

    job_id: str


@dataclass(frozen=True)
class NoteStart:
    """The current attempt works, or waits for workers (again)."""

    job_id: str
    starting: bool


@dataclass(frozen=True)
class NoteFirst:
    """A job is the first in its line for the first time."""

    job_id: str


@dataclass(frozen=True)
class End:
    """Write down that the current attempt is to end, and why, before anything is done for it."""

    job_id: str
    reason: Reason
    message: str


@dataclass(frozen=True)
class AskAside:
    """Ask the current attempt to save what it has and end."""

    job_id: str


@dataclass(frozen=True)
class Stop:
    """Ask Ray to end the current attempt."""

    job_id: str


@dataclass(frozen=True)
class Change:
    """Write down another state."""

    job_id: str
    state: State
    reason: Reason
    message: str = ""
    not_before: float = 0.0
    exit_code: int | None = None


Action = Start | Submit | Acknowledge | NoteStart | NoteFirst | End | AskAside | Stop | Change
