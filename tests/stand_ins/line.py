"""Jobs, rooms and rules for tests of the queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tandem.orchestrator.jobs import Attempt, Job, queue_of
from tandem.orchestrator.resources import Demand, Room, summed
from tandem.orchestrator.scheduler import Holding, Rules, Waiting
from tandem.orchestrator.states import Reason, State
from tandem.specs import FinetuneSpec

RULES = Rules({}, {}, passing_s=600, grace_s=300, shared_cpus=None)


def make_room(*machines: Mapping[str, float], shared: float | None = None, **fields: Any) -> Room:
    """A cluster that has been as it is for long."""
    limits = {} if shared is None else {"CPU": shared}
    made = Room(machines=machines, grows_to={}, reserved={}, shared=limits, since=-1e9)
    return replace(made, **fields)


def finetune(workers: int | list[int] = 2, **fields: Any) -> dict[str, Any]:
    schedule = {"batch_size": 4 * workers if isinstance(workers, int) else 24}
    known = {"kind": "finetune", "name": "t", "model": "/m", "data": {"train": "/rows.jsonl"}, "schedule": schedule}
    return FinetuneSpec.model_validate({**known, "workers": workers, **fields}).canonical()


def attempt(number: int = 1, **fields: Any) -> Attempt:
    made = Attempt(
        number=number, reason=None, submitted_at=0.0, starting_since=None, end_reason=None, end_message="",
        end_asked_at=None, ended_at=None,
    )  # fmt: skip
    return replace(made, **fields)


def job(name: str = "a", state: State = State.QUEUED, *, workers: int | list[int] = 2, queue: Any = None,
        before: tuple[Reason, ...] = (), **fields: Any) -> Job:  # fmt: skip
    """A job in a state; `before` are the reasons for which its earlier attempts ended."""
    history = tuple(attempt(number, reason=reason, ended_at=0.0) for number, reason in enumerate(before, 1))
    if state.active:
        history += (attempt(len(history) + 1),)
    spec = finetune(workers, queue=queue or {})
    made = Job(
        id=name, name=name, kind="finetune", spec=spec, queue=queue_of(spec), state=state,
        reason=Reason.SUBMITTED, message="", attempt=len(history), acknowledged=state.active, stop_requested=False,
        judged=True, not_before=0.0, created_at=0.0, started_at=None, first_at=None, ended_at=None, history=history,
    )  # fmt: skip
    return replace(made, **fields)


def waiting(name: str, needs: Mapping[str, float] | float = 1.0, **fields: Any) -> Waiting:
    amounts = {"CPU": float(needs)} if isinstance(needs, int | float) else needs
    asked = Demand(((amounts, 1),), amounts, summed([(amounts, fields.pop("times", 1))]))
    made = Waiting(
        id=name, project="default", priority=0, demand=asked, attempt=1, judged=True, not_before=0.0, first_at=None
    )
    return replace(made, **fields)


def holding(name: str, held: Mapping[str, float] | float = 1.0, **fields: Any) -> Holding:
    amounts = {"CPU": float(held)} if isinstance(held, int | float) else held
    made = Holding(
        id=name, project="default", priority=0, held=amounts, preemptible=False, leaving=False, started_at=0.0
    )
    return replace(made, **fields)
