"""What is refused when it is submitted: a job that couldn't start, however empty the cluster is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tandem.errors import SpecError
from tandem.orchestrator.jobs import queue_of
from tandem.orchestrator.resources import Room, demand
from tandem.orchestrator.scheduler import Rules, too_large

REMEDY = "ask for less, or have the cluster, its `grows_to` or the project's quota made larger"
# Where each kind says what it needs.
_FIELDS = {"index": "embedder.workers, embedder.gpus", "finetune": "workers, cpus_per_worker, gpus_per_worker"}


def refusal(spec: Mapping[str, Any], room: Room, rules: Rules) -> SpecError | None:
    """Why a job is refused; None if it isn't.

    Args:
        spec: A canonical job spec.
        room: What the cluster has.
        rules: What the cluster file says.
    """
    why = too_large(demand(spec, gpus=room.gpus), queue_of(spec).project, room, rules)
    if why is None:
        return None
    fields = _FIELDS.get(spec["kind"], "kind")
    return SpecError(
        f"could never start, however empty the cluster is: {why}", where=f"job {spec['name']}: {fields}", remedy=REMEDY
    )
