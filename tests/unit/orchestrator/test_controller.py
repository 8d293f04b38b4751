from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from stand_ins.line import RULES, attempt, job, make_room

from tandem.orchestrator.actions import (
    Acknowledge,
    Action,
    AskAside,
    Change,
    End,
    NoteFirst,
    NoteStart,
    Start,
    Stop,
    Submit,
)
from tandem.orchestrator.controller import Policy, decide
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.resources import Room
from tandem.orchestrator.states import Observation, Reason, State

NOW = 1000.0
RETRY = Policy(retry=True, max_attempts=5)
FOUR = make_room({"CPU": 4.0})
WORKS = Observation("RUNNING", phase="train")
DRIVER_KILLED = Observation("FAILED", exit_code=-9)


def actions(
    jobs: list[Job], seen: dict[str, Observation] | None = None, *, room: Room | None = FOUR, policy: Policy = RETRY
) -> list[Action]:
    return decide(jobs, seen or {}, room, policy, RULES, NOW).actions


def ending(attempted: Job, seen: Observation, **how: Any) -> Change:
    (change,) = actions([attempted], {attempted.id: seen}, **how)
    assert isinstance(change, Change)
    return change


def test_jobs_start_in_their_order_while_there_is_room() -> None:
    turn = decide([job("a"), job("b"), job("c")], {}, FOUR, RETRY, RULES, NOW)
    assert turn.actions == [Start("a"), Start("b"), NoteFirst("c")]
    assert turn.waits == {"c": "needs 2 CPUs, 0 are free; 1st in line"}


def test_what_an_attempt_held_is_free_in_the_turn_that_sees_its_end() -> None:
    ran = job("a", State.RUNNING, workers=4)
    seen = {"a": Observation("SUCCEEDED", has_result=True)}
    assert actions([ran, job("b", workers=4)], seen) == [Change("a", State.SUCCEEDED, Reason.DONE), Start("b")]


def test_elastic_workers_are_promised_what_they_may_take() -> None:
    assert actions([job("a", workers=[1, 4]), job("b", workers=1)]) == [Start("a"), NoteFirst("b")]
    assert actions([job("a", workers=[1, 3]), job("b", workers=1)]) == [Start("a"), Start("b")]


@pytest.mark.parametrize(("judged", "age", "fails"), [(False, 60, True), (False, 59, False), (True, 60, False)])
def test_a_job_that_no_empty_cluster_could_hold_blocks_nobody_and_fails_unless_it_once_fitted(
    judged: bool, age: float, fails: bool
) -> None:
    large = job("large", workers=5, judged=judged)
    turn = decide([large, job("b")], {}, replace(FOUR, since=NOW - age), RETRY, RULES, NOW)
    assert turn.actions[-1] == Start("b")
    assert len(turn.actions) == 1 + fails
    if fails:
        (change, _) = turn.actions
        assert isinstance(change, Change)
        assert (change.state, change.reason) == (State.FAILED, Reason.USER_ERROR)
        assert change.message.startswith("needs 5 CPUs, the cluster has 4 CPUs (ask for less, or")
    else:
        assert turn.waits == {"large": "needs 5 CPUs, the cluster has 4 CPUs: it waits for that to change"}


def test_a_retried_job_waits_for_a_machine_that_has_gone() -> None:
    retried = job("a", State.RETRYING, workers=8, before=(Reason.NODE_LOST,), judged=False)
    assert actions([retried]) == []


def test_nothing_starts_and_nothing_is_judged_while_the_head_is_down() -> None:
    jobs = [job("a", State.RUNNING), job("b")]
    turn = decide(jobs, {}, None, RETRY, RULES, NOW)
    assert (turn.actions, turn.waits) == ([], {"b": "Ray doesn't answer: nothing starts until it does"})
    assert actions(jobs, {"a": Observation("UNREACHABLE")}, room=None) == []


def test_a_driver_that_is_seen_running_is_acknowledged_and_written_down() -> None:
    starting = job("a", State.STARTING, acknowledged=False, history=(attempt(starting_since=NOW - 1),))
    assert actions([starting], {"a": Observation("PENDING")}) == [Acknowledge("a")]
    assert actions([starting], {"a": Observation("RUNNING")}) == [
        Acknowledge("a"),
        Change("a", State.RUNNING, Reason.DRIVER_RUNS),
    ]


def test_a_submission_that_was_never_answered_is_made_again_under_the_same_id() -> None:
    starting = job("a", State.STARTING, acknowledged=False)
    assert actions([starting], {"a": Observation("MISSING")}) == [Submit("a")]
    # Not if its end was asked for meanwhile: Ray never had it.
    asked = attempt(end_reason=Reason.PREEMPTED, end_message="made room for b", end_asked_at=NOW)
    change = ending(replace(starting, history=(asked,)), Observation("MISSING"))
    assert (change.state, change.reason) == (State.RETRYING, Reason.PREEMPTED)


@pytest.mark.parametrize(("before", "state"), [((), State.RETRYING), ((Reason.START_TIMEOUT,), State.FAILED)])
def test_a_submission_that_ray_cannot_take_is_given_up_in_the_time_for_a_start(
    before: tuple[Reason, ...], state: State
) -> None:
    starting = job("a", State.STARTING, acknowledged=False, before=before, queue={"max_start_s": 60})
    tried = [*starting.history[:-1], replace(starting.current, starting_since=NOW - 59)]
    assert actions([replace(starting, history=tuple(tried))], {"a": Observation("MISSING")}) == [Submit("a")]
    tried[-1] = replace(tried[-1], starting_since=NOW - 60)
    late = replace(starting, history=tuple(tried))
    change = ending(late, Observation("MISSING"))
    assert (change.state, change.reason) == (state, Reason.START_TIMEOUT)
    assert change.message == "Ray hadn't taken it after 60 s (queue.max_start_s)"
    # One that has begun, whatever Ray says, wasn't late.
    assert ending(late, Observation("MISSING", begun=True)).reason is Reason.HEAD_LOST
    assert ending(replace(late, stop_requested=True), Observation("MISSING")).state is State.STOPPED


def test_a_submission_that_ray_knew_and_knows_no_more_went_with_the_head() -> None:
    change = ending(job("a", State.RUNNING), Observation("MISSING"))
    assert (change.state, change.reason, change.not_before) == (State.RETRYING, Reason.HEAD_LOST, NOW + 5)


@pytest.mark.parametrize(
    ("policy", "before", "wait_s"),
    [
        (RETRY, (), 5),
        (RETRY, (Reason.DRIVER_DIED,), 10),
        (RETRY, (Reason.DRIVER_DIED,) * 2, None),
        # A limit of its own for each reason, and one for all of them together.
        (RETRY, (Reason.NODE_LOST,) * 3, 5),
        (RETRY, (Reason.NODE_LOST,) * 4, None),
        (Policy(retry=True, max_attempts=2), (Reason.NODE_LOST,), None),
        (Policy(retry=False, max_attempts=5), (), None),
        # To be preempted counts for neither.
        (Policy(retry=True, max_attempts=2), (Reason.PREEMPTED,) * 9, 5),
    ],
)
def test_what_the_job_did_not_cause_is_tried_again_so_often(
    policy: Policy, before: tuple[Reason, ...], wait_s: float | None
) -> None:
    change = ending(job("a", State.RUNNING, before=before), DRIVER_KILLED, policy=policy)
    state, later = (State.FAILED, 0.0) if wait_s is None else (State.RETRYING, NOW + wait_s)
    assert (change.state, change.not_before) == (state, later)
    assert (change.reason, change.exit_code) == (Reason.DRIVER_DIED, -9)


def test_what_the_user_caused_is_not_tried_again() -> None:
    seen = Observation("FAILED", exit_code=2, error={"type": "DataError", "what": "no rows"})
    change = ending(job("a", State.RUNNING), seen)
    assert change == Change("a", State.FAILED, Reason.USER_ERROR, "no rows", exit_code=2)


def test_a_retry_waits_for_its_time_and_lets_others_go_first() -> None:
    retried = job("a", State.RETRYING, not_before=NOW + 12, workers=4, before=(Reason.DRIVER_DIED,) * 2)
    turn = decide([retried, job("b")], {}, FOUR, RETRY, RULES, NOW)
    assert turn.actions == [Start("b")]
    assert turn.waits == {"a": "waits for 12 s more before attempt 3"}
    assert decide([retried, job("b")], {}, FOUR, RETRY, RULES, NOW + 12).actions == [Start("a"), NoteFirst("b")]


def test_stopping() -> None:
    queued = job("q", stop_requested=True)
    stopped = Change("q", State.STOPPED, Reason.STOPPED, "stopped on request")
    assert actions([queued]) == [stopped]
    assert actions([queued], room=None) == [stopped]
    running = job("r", State.RUNNING, stop_requested=True)
    assert actions([running], {"r": WORKS}) == [Stop("r")]
    for seen in (Observation("STOPPED"), Observation("FAILED", exit_code=-15), Observation("MISSING")):
        change = ending(running, seen)
        assert (change.state, change.reason) == (State.STOPPED, Reason.STOPPED)
    # It had ended by itself before the stop reached it.
    assert ending(running, Observation("SUCCEEDED", has_result=True)).state is State.SUCCEEDED
    # What a person wants goes before what the queue wanted.
    asked = attempt(end_reason=Reason.PREEMPTED, end_asked_at=NOW)
    assert ending(replace(running, history=(asked,)), Observation("STOPPED")).state is State.STOPPED


@pytest.mark.parametrize(
    ("seen", "missing"),
    [
        (Observation("PENDING"), "Ray hadn't started its driver"),
        (Observation("RUNNING"), "its driver hadn't said anything"),
        (Observation("RUNNING", phase="workers"), "its workers hadn't come"),
    ],
)
def test_an_attempt_that_does_not_come_to_work_in_time_is_ended_and_tried_once_more(
    seen: Observation, missing: str
) -> None:
    def since(seconds: float) -> Job:
        history = (attempt(starting_since=NOW - seconds),)
        return job("a", State.RUNNING, queue={"max_start_s": 60}, history=history)

    turn = decide([since(59)], {"a": seen}, FOUR, RETRY, RULES, NOW)
    assert (turn.actions, turn.waits) == ([], {"a": "starting for 59 s, of at most 60 s"})
    (end,) = actions([since(60)], {"a": seen})
    assert end == End("a", Reason.START_TIMEOUT, f"{missing} after 60 s (queue.max_start_s)")
    asked = attempt(end_reason=Reason.START_TIMEOUT, end_message="too late", end_asked_at=NOW)
    ended = job("a", State.RUNNING, history=(asked,))
    # Also if its workers came just then.
    assert actions([ended], {"a": WORKS}) == [Stop("a")]
    change = ending(ended, Observation("STOPPED"))
    assert change == Change("a", State.RETRYING, Reason.START_TIMEOUT, "too late", not_before=NOW + 60)
    again = replace(ended, history=(attempt(1, reason=Reason.START_TIMEOUT, ended_at=1.0), replace(asked, number=2)))
    assert ending(again, Observation("STOPPED")).state is State.FAILED


def test_a_job_starts_anew_when_its_workers_are_lost() -> None:
    working = job("a", State.RUNNING)
    assert actions([working], {"a": WORKS}) == []
    assert actions([working], {"a": Observation("RUNNING", phase="workers")}) == [NoteStart("a", True)]
    starting = replace(working, history=(attempt(starting_since=NOW - 9),))
    assert actions([starting], {"a": WORKS}) == [NoteStart("a", False)]


def test_a_start_in_a_cluster_that_grows_says_what_it_waits_for() -> None:
    starting = job("a", State.RUNNING, workers=8, history=(attempt(starting_since=NOW - 9),))
    for grows_to, machines in (({"CPU": 16.0}, "machines of the autoscaler"), ({}, "machines")):
        turn = decide([starting], {"a": Observation("PENDING")}, replace(FOUR, grows_to=grows_to), RETRY, RULES, NOW)
        assert turn.waits["a"] == (
            f"starting for 9 s, of at most 1800 s; needs 8 CPUs, the cluster has 4 CPUs now: waits for {machines}"
        )


def test_an_attempt_that_takes_too_long_is_ended_and_not_tried_again() -> None:
    running = job("a", State.RUNNING, queue={"max_run_s": NOW - 1})
    assert actions([running], {"a": WORKS}) == [
        End("a", Reason.RUN_TIMEOUT, "hadn't ended after 999 s (queue.max_run_s)")
    ]
    asked = attempt(end_reason=Reason.RUN_TIMEOUT, end_message="too long", end_asked_at=NOW)
    change = ending(replace(running, history=(asked,)), Observation("FAILED", exit_code=-15))
    assert (change.state, change.reason, change.message) == (State.FAILED, Reason.RUN_TIMEOUT, "too long")


def test_a_job_that_waits_too_long_fails_whether_ray_answers_or_not() -> None:
    patient = job("a", queue={"max_wait_s": NOW + 1}, workers=9)
    assert actions([patient]) == []
    for room in (FOUR, None):
        (change,) = actions([job("a", queue={"max_wait_s": NOW})], room=room)
        assert isinstance(change, Change)
        assert (change.state, change.reason) == (State.FAILED, Reason.QUEUE_TIMEOUT)
    # After an attempt the time begins anew.
    since = attempt(reason=Reason.NODE_LOST, ended_at=NOW - 5)
    retried = job("a", State.RETRYING, queue={"max_wait_s": 6}, history=(since,), attempt=1)
    assert actions([retried]) == [Start("a")]
    (change,) = actions([replace(retried, history=(replace(since, ended_at=NOW - 6),))])
    assert isinstance(change, Change)


def preempted(*, asked_s_ago: float = 0.0, **fields: Any) -> Job:
    asked = attempt(end_reason=Reason.PREEMPTED, end_message="made room for b", end_asked_at=NOW - asked_s_ago)
    return job("a", State.RUNNING, history=(asked,), **fields)


def test_a_job_of_higher_priority_has_one_step_aside_which_goes_on_later() -> None:
    low = job("a", State.RUNNING, workers=4, queue={"preemptible": True})
    high = job("b", workers=4, queue={"priority": 1})
    turn = decide([low, high], {"a": WORKS}, FOUR, RETRY, RULES, NOW)
    assert turn.actions == [NoteFirst("b"), End("a", Reason.PREEMPTED, "made room for b")]
    assert turn.waits == {"b": "needs 4 CPUs, 0 are free; 1st in line; a must end first, and was asked to"}
    # It is asked until it has had its time for a checkpoint, and then ended.
    turn = decide([preempted(workers=4), high], {"a": WORKS}, FOUR, RETRY, RULES, NOW)
    assert turn.actions == [AskAside("a"), NoteFirst("b")]
    assert turn.waits["a"] == "is asked to end (preempted): made room for b"
    assert actions([preempted(asked_s_ago=299)], {"a": WORKS}) == [AskAside("a")]
    assert actions([preempted(asked_s_ago=300)], {"a": WORKS}) == [Stop("a")]
    # Those without checkpoints have nothing to do in that time.
    assert actions([preempted(kind="compare")], {"a": WORKS}) == [Stop("a")]


@pytest.mark.parametrize(
    ("seen", "reason", "message"),
    [
        (Observation("STOPPED"), Reason.PREEMPTED, "made room for b"),
        (Observation("FAILED", exit_code=-15), Reason.PREEMPTED, "made room for b"),
        (
            Observation("FAILED", exit_code=1, error={"type": "PreemptedError", "what": "stepped aside after step 7"}),
            Reason.PREEMPTED,
            "made room for b: stepped aside after step 7",
        ),
    ],
)
def test_however_it_ended_a_preempted_job_goes_on_at_once_when_there_is_room(
    seen: Observation, reason: Reason, message: str
) -> None:
    for policy in (RETRY, Policy(retry=False, max_attempts=1)):
        change = ending(preempted(), seen, policy=policy)
        assert change == Change("a", State.RETRYING, reason, message, not_before=NOW, exit_code=seen.exit_code)


def test_a_job_that_ends_by_itself_while_it_is_to_step_aside_has_ended() -> None:
    assert ending(preempted(), Observation("SUCCEEDED", has_result=True)).state is State.SUCCEEDED
    broken = Observation("FAILED", exit_code=2, error={"type": "DataError", "what": "no rows"})
    change = ending(preempted(), broken)
    assert (change.state, change.reason) == (State.FAILED, Reason.USER_ERROR)
