from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tandem.orchestrator.controller import (
    Acknowledge,
    Capacity,
    Change,
    Policy,
    Start,
    Stop,
    Submit,
    backoff_s,
    decide,
)
from tandem.orchestrator.records import Job
from tandem.orchestrator.resources import cpus_held, cpus_needed
from tandem.orchestrator.states import Observation, Reason, State
from tandem.specs import CompareSpec, FinetuneSpec, IndexSpec

NOW = 1000.0
RETRY = Policy(retry=True, max_attempts=3)
FOUR = Capacity(cpus=4.0, for_jobs=4.0)


def finetune(workers: int | list[int]) -> dict[str, Any]:
    data = {"train": "/rows.jsonl"}
    schedule = {"batch_size": 4 * workers if isinstance(workers, int) else 24}
    return FinetuneSpec.model_validate(
        {"kind": "finetune", "name": "t", "model": "/m", "data": data, "schedule": schedule, "workers": workers}
    ).canonical()


def job(name: str = "a", state: State = State.QUEUED, *, workers: int | list[int] = 2, **fields: Any) -> Job:
    made = Job(
        id=name, name=name, kind="finetune", spec=finetune(workers), state=state, reason=Reason.SUBMITTED, message="",
        attempt=int(state is not State.QUEUED), acknowledged=state is not State.QUEUED, stop_requested=False,
        not_before=0.0, created_at=0.0, started_at=None, ended_at=None,
    )  # fmt: skip
    return replace(made, **fields)


def test_what_a_job_needs() -> None:
    assert cpus_needed(finetune(3)) == 3
    index = IndexSpec.model_validate({"kind": "index", "name": "i", "sources": ["/d"], "embedder": {"workers": 2}})
    assert cpus_needed(index.canonical()) == 3
    compare = CompareSpec.model_validate(
        {"kind": "compare", "name": "c", "model": "/m", "eval": "/e", "collection": "i"}
    )
    assert cpus_needed(compare.canonical()) == 1


def test_elastic_workers_need_their_minimum_and_hold_what_there_is_up_to_their_maximum() -> None:
    elastic = finetune([1, 3])
    assert cpus_needed(elastic) == 1
    assert [cpus_held(elastic, cluster) for cluster in (1, 2, 8)] == [1, 2, 3]
    assert [cpus_held(finetune(2), cluster) for cluster in (1, 8)] == [2, 2]
    # The second would be promised CPUs that the first one takes.
    assert decide([job("a", workers=[1, 4]), job("b", workers=1)], {}, FOUR, RETRY, NOW) == [Start("a")]
    assert decide([job("a", workers=[1, 3]), job("b", workers=1)], {}, FOUR, RETRY, NOW) == [Start("a"), Start("b")]


def test_jobs_start_in_their_order_while_there_is_room() -> None:
    jobs = [job("a"), job("b"), job("c")]
    assert decide(jobs, {}, FOUR, RETRY, NOW) == [Start("a"), Start("b")]


def test_a_small_job_does_not_overtake_a_large_one() -> None:
    running = job("a", State.RUNNING, workers=3)
    jobs = [running, job("large", workers=4), job("small", workers=1)]
    assert decide(jobs, {"a": Observation("RUNNING")}, FOUR, RETRY, NOW) == []


def test_a_job_that_the_cluster_can_never_hold_fails_at_once_and_blocks_nobody() -> None:
    actions = decide([job("large", workers=5), job("b")], {}, FOUR, RETRY, NOW)
    assert isinstance(actions[0], Change)
    assert (actions[0].state, actions[0].reason) == (State.FAILED, Reason.USER_ERROR)
    assert "asks for 5 CPUs, the cluster has 4" in actions[0].message
    assert actions[1] == Start("b")


def test_one_job_may_have_more_than_jobs_share_when_it_is_alone() -> None:
    # A core for jobs and two more for an endpoint: two workers then take turns, which beats never starting.
    assert decide([job("a")], {}, Capacity(cpus=3.0, for_jobs=1.0), RETRY, NOW) == [Start("a")]


def test_nothing_starts_and_nothing_is_judged_while_the_head_is_down() -> None:
    jobs = [job("a", State.RUNNING), job("b")]
    assert decide(jobs, {}, Capacity(cpus=None, for_jobs=4.0), RETRY, NOW) == []
    assert decide(jobs, {"a": Observation("UNREACHABLE")}, Capacity(None, 4.0), RETRY, NOW) == []


def test_a_driver_that_is_seen_running_is_acknowledged_and_written_down() -> None:
    starting = job("a", State.STARTING, acknowledged=False)
    assert decide([starting], {"a": Observation("PENDING")}, FOUR, RETRY, NOW) == [Acknowledge("a")]
    seen = {"a": Observation("RUNNING")}
    assert decide([starting], seen, FOUR, RETRY, NOW) == [
        Acknowledge("a"),
        Change("a", State.RUNNING, Reason.DRIVER_RUNS),
    ]


def test_a_submission_that_was_never_answered_is_made_again_under_the_same_id() -> None:
    starting = job("a", State.STARTING, acknowledged=False)
    assert decide([starting], {"a": Observation("MISSING")}, FOUR, RETRY, NOW) == [Submit("a")]


def test_a_submission_that_ray_knew_and_knows_no_more_went_with_the_head() -> None:
    (change,) = decide([job("a", State.RUNNING)], {"a": Observation("MISSING")}, FOUR, RETRY, NOW)
    assert isinstance(change, Change)
    assert (change.state, change.reason) == (State.RETRYING, Reason.HEAD_LOST)
    assert change.not_before == NOW + backoff_s(1)


@pytest.mark.parametrize(
    ("policy", "attempt", "state"),
    [
        (RETRY, 1, State.RETRYING),
        (RETRY, 2, State.RETRYING),
        (RETRY, 3, State.FAILED),
        (Policy(retry=False, max_attempts=3), 1, State.FAILED),
    ],
)
def test_what_the_job_did_not_cause_is_tried_again_so_often(policy: Policy, attempt: int, state: State) -> None:
    running = job("a", State.RUNNING, attempt=attempt)
    (change,) = decide([running], {"a": Observation("FAILED", exit_code=-9)}, FOUR, policy, NOW)
    assert isinstance(change, Change)
    assert (change.state, change.reason, change.exit_code) == (state, Reason.DRIVER_DIED, -9)


def test_what_the_user_caused_is_not_tried_again() -> None:
    seen = Observation("FAILED", exit_code=2, error={"type": "DataError", "what": "no rows"})
    (change,) = decide([job("a", State.RUNNING)], {"a": seen}, FOUR, RETRY, NOW)
    assert change == Change("a", State.FAILED, Reason.USER_ERROR, "no rows", exit_code=2)


def test_a_retry_waits_for_its_time_and_lets_others_go_first() -> None:
    waiting = job("a", State.RETRYING, not_before=NOW + 1, workers=4)
    assert decide([waiting, job("b")], {}, FOUR, RETRY, NOW) == [Start("b")]
    assert decide([waiting, job("b")], {}, FOUR, RETRY, NOW + 1) == [Start("a")]


def test_stopping() -> None:
    queued = job("q", stop_requested=True)
    assert decide([queued], {}, FOUR, RETRY, NOW) == [Change("q", State.STOPPED, Reason.STOPPED, "stopped on request")]
    running = job("r", State.RUNNING, stop_requested=True)
    assert decide([running], {"r": Observation("RUNNING")}, FOUR, RETRY, NOW) == [Stop("r")]
    for seen in (Observation("STOPPED"), Observation("FAILED", exit_code=-15), Observation("MISSING")):
        (change,) = decide([running], {"r": seen}, FOUR, RETRY, NOW)
        assert isinstance(change, Change)
        assert (change.state, change.reason) == (State.STOPPED, Reason.STOPPED)
    # It had ended by itself before the stop reached it.
    (change,) = decide([running], {"r": Observation("SUCCEEDED", has_result=True)}, FOUR, RETRY, NOW)
    assert isinstance(change, Change)
    assert change.state is State.SUCCEEDED


def test_a_stop_is_written_down_even_while_the_head_is_down_for_a_job_that_waits() -> None:
    queued = job("q", stop_requested=True)
    (change,) = decide([queued], {}, Capacity(None, 4.0), RETRY, NOW)
    assert isinstance(change, Change)
    assert change.state is State.STOPPED
