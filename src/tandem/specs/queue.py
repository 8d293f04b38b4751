"""How a job waits for its turn, and what a cluster lets jobs have of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tandem.specs.base import Name, Spec

Amounts = dict[
    Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z][\w.:-]*$",
            description="CPU, GPU, GPU:A100 (of one type), memory (bytes), or a resource of Ray's by its name",
        ),
    ],
    Annotated[float, Field(ge=0)],
]


class QueueSpec(Spec):
    """How a job waits, and how long it may take. What it makes doesn't depend on it: it is no part of its identity."""

    project: Name = Field("default", description="whose quota it counts against")
    priority: int = Field(0, ge=-1000, le=1000, description="the higher goes first; among equals the older")
    preemptible: bool = Field(
        False,
        description="may be asked to step aside for one of higher priority; it goes on later, a fine-tune from the "
        "checkpoint that it makes when it is asked",
    )
    max_wait_s: float | None = Field(
        None, gt=0, description="seconds that it may wait for an attempt to start; null: as long as it takes"
    )
    max_start_s: float = Field(
        1800, gt=0, description="seconds that an attempt may take until it works, and its workers until they come"
    )
    max_run_s: float | None = Field(
        None, gt=0, description="seconds that an attempt may take, its start among them; null: as long as it takes"
    )


class ClusterQueueSpec(Spec):
    """What jobs may have of the cluster, and how patient the queue is."""

    quotas: dict[Name | Literal["*"], Amounts] = Field(
        {}, description="what the jobs of a project may hold together; '*': of each project that isn't named"
    )
    reserved: Amounts = Field({}, description="kept from all jobs, for endpoints and whatever else runs there")
    passing_s: float = Field(
        600, ge=0, description="seconds for which smaller jobs may pass the first in line; then its room is kept"
    )
    grace_s: float = Field(
        300, ge=0, description="seconds in which a fine-tune that must step aside makes a checkpoint; then it is ended"
    )
