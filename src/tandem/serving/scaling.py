"""How many replicas each part of the endpoint has: by the load, and by how long requests have had to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tandem.specs.rag import BackendReplicaSpec, RagSpec, ReplicaSpec

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

_QUEUED_SINCE = "queued_since"


def ingress_options(spec: RagSpec) -> dict[str, Any]:
    """Deployment options of the ingress that follow from the limits, and change with them without new replicas."""
    # Above the limit that the ingress itself keeps, so that it can answer 429 instead of letting requests queue. Who
    # sends a body slowly counts here alone.
    admitted = 2 * spec.limits.max_ongoing_requests + 16
    return {
        "max_ongoing_requests": admitted,
        "max_queued_requests": admitted,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1},
        **drain_options(spec),
    }


def drain_options(spec: RagSpec) -> dict[str, Any]:
    """As `ingress_options`, of every part: a replica that is stopped first answers what it has begun."""
    return {"graceful_shutdown_timeout_s": spec.limits.timeout_s}


def backend_options(spec: BackendReplicaSpec, *, max_ongoing_requests: int = 64) -> dict[str, Any]:
    """As `replica_options`, of a part that the ingress asks.

    Args:
        spec: Between how many, and when.
        max_ongoing_requests: Of one replica, where the spec says nothing. What a replica holds no other can take.
    """
    at_once = spec.max_ongoing_requests or max_ongoing_requests
    target = min(spec.target_ongoing_requests, at_once)
    options = replica_options(spec.model_copy(update={"target_ongoing_requests": target}))
    return {"max_ongoing_requests": at_once, **options}


def replica_options(spec: ReplicaSpec) -> dict[str, Any]:
    """Deployment options for a number of replicas.

    Args:
        spec: Between how many, and when.
    """
    options: dict[str, Any] = {"max_surge_percent": spec.max_surge_percent}
    if spec.min_replicas == spec.max_replicas:
        return options | {"num_replicas": spec.min_replicas}
    settings = spec.model_dump(exclude={"max_ongoing_requests", "max_surge_percent", "max_queue_age_s"})
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
