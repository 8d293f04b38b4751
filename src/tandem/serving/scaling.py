"""How many replicas each part of the endpoint has: by the load, and by how long requests have had to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tandem.specs.rag import ReplicaSpec

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

_QUEUED_SINCE = "queued_since"


def replica_options(spec: ReplicaSpec) -> dict[str, Any]:
    """Deployment options for a number of replicas.

    Args:
        spec: Between how many, and when.
    """
    of_deployment = {"max_ongoing_requests", "max_surge_percent"}
    options: dict[str, Any] = spec.model_dump(include=of_deployment)
    if spec.min_replicas == spec.max_replicas:
        return options | {"num_replicas": spec.min_replicas}
    settings = spec.model_dump(exclude={*of_deployment, "max_queue_age_s"})
    policy = {
        "policy_function": f"{ByLoadAndQueueAge.__module__}:{ByLoadAndQueueAge.__name__}",
        "policy_kwargs": {"max_queue_age_s": spec.max_queue_age_s},
    }
    return options | {"autoscaling_config": {**settings, "policy": policy}}


class ByLoadAndQueueAge:
    """Replicas for the requests in flight; one more while requests have been waiting for too long.

    Ray Serve asks every tenth of a second, and itself keeps the answer within bounds and waits out the delays.

    Args:
        max_queue_age_s: Seconds for which requests may wait without a break.
    """

    def __init__(self, max_queue_age_s: float) -> None:
        self._max_queue_age_s = max_queue_age_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Replicas that are wanted, and since when requests have been waiting."""
        config: Any = context.config
        running = context.current_num_replicas
        wanted = float(context.total_num_requests) / config.get_target_ongoing_requests() if running else 0.0
        now = float(context.current_time or 0.0)
        since = context.policy_state.get(_QUEUED_SINCE) if context.total_queued_requests else None
        if context.total_queued_requests and since is None:
            since = now
        if since is not None and now - since >= self._max_queue_age_s:
            wanted = max(wanted, running + 1.0)
        return wanted, {_QUEUED_SINCE: since}
