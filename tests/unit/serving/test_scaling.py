from __future__ import annotations

from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from tandem.serving.scaling import ByLoadAndQueueAge, backend_options, replica_options
from tandem.specs.rag import BackendReplicaSpec, ReplicaSpec


def test_replicas_are_fixed_or_between_two_numbers() -> None:
    fixed = {"max_surge_percent": 0, "num_replicas": 2}
    assert replica_options(ReplicaSpec(min_replicas=2, max_replicas=2)) == fixed
    options = replica_options(ReplicaSpec(min_replicas=0, max_replicas=3, max_queue_age_s=2))
    config = AutoscalingConfig.model_validate(options["autoscaling_config"])
    assert (config.min_replicas, config.max_replicas, config.get_target_ongoing_requests()) == (0, 3, 8)
    assert config.policy.policy_kwargs == {"max_queue_age_s": 2.0}
    assert config.policy.get_policy() is ByLoadAndQueueAge


@pytest.mark.parametrize(("wanted", "has", "target"), [(None, 2, 2), (1, 1, 1), (30, 30, 8)])
def test_a_replica_holds_no_more_than_it_works_on_so_that_others_can_take_what_waits(
    wanted: int | None, has: int, target: float
) -> None:
    spec = BackendReplicaSpec(max_replicas=2, max_ongoing_requests=wanted)
    options = backend_options(spec, max_ongoing_requests=2)
    assert options["max_ongoing_requests"] == has
    assert options["autoscaling_config"]["target_ongoing_requests"] == target
    assert backend_options(BackendReplicaSpec())["max_ongoing_requests"] == 64


def context(*, replicas: int, requests: float, queued: float, now: float, state: dict[str, Any]) -> Any:
    return AutoscalingContext(
        deployment_id=None,  # type: ignore[arg-type]
        deployment_name="LLM",
        app_name="rag",
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        running_replicas=[],
        total_num_requests=requests,
        total_queued_requests=queued,
        aggregated_metrics=None,
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=9,
        policy_state=state,
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=AutoscalingConfig(min_replicas=1, max_replicas=9, target_ongoing_requests=4),
    )


@pytest.mark.parametrize(("replicas", "requests", "wanted"), [(1, 2, 0.5), (2, 8, 2.0), (1, 12, 3.0), (0, 0, 0.0)])
def test_replicas_follow_the_requests_in_flight(replicas: int, requests: float, wanted: float) -> None:
    policy = ByLoadAndQueueAge(5)
    assert policy(context(replicas=replicas, requests=requests, queued=0, now=1, state={}))[0] == wanted


def test_requests_that_wait_for_long_ask_for_one_more_whatever_the_load() -> None:
    policy = ByLoadAndQueueAge(5)
    state: dict[str, Any] = {}

    def ask(now: float, queued: float) -> float:
        nonlocal state
        wanted, state = policy(context(replicas=2, requests=4, queued=queued, now=now, state=state))
        return wanted

    assert [ask(100, 1), ask(104, 1), ask(105, 1), ask(106, 3)] == [1.0, 1.0, 3.0, 3.0]
    # The queue was empty for a moment: it begins anew.
    assert [ask(107, 0), ask(108, 1), ask(112, 1), ask(113, 1)] == [1.0, 1.0, 1.0, 3.0]
