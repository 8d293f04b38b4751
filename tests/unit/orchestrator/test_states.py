from __future__ import annotations

import pytest

from tandem import errors
from tandem.errors import InputError
from tandem.orchestrator.states import (
    FINAL,
    NEXT,
    RETRIES,
    USER_ERROR_TYPES,
    Observation,
    Reason,
    State,
    ending,
    error_line,
)


def test_every_reason_says_whether_how_often_and_after_how_long_it_is_retried() -> None:
    assert set(RETRIES) == set(Reason)
    limits = {reason: retry.limit for reason, retry in RETRIES.items() if retry is not None}
    assert limits == {
        Reason.DISK_FULL: 4,
        Reason.DRIVER_DIED: 2,
        Reason.NODE_LOST: 4,
        Reason.HEAD_LOST: 4,
        Reason.START_FAILED: 2,
        Reason.START_TIMEOUT: 1,
        Reason.PREEMPTED: None,
    }
    lost = RETRIES[Reason.NODE_LOST]
    assert lost is not None
    assert [lost.backoff_s(times) for times in (0, 1, 2, 10)] == [5, 10, 20, 300]


@pytest.mark.parametrize(
    ("status", "phase", "works"),
    [("PENDING", None, False), ("RUNNING", None, False), ("RUNNING", "workers", False), ("RUNNING", "prepare", True)],
)
def test_an_attempt_works_once_it_says_so_and_has_its_workers(status: str, phase: str | None, works: bool) -> None:
    assert Observation(status, phase=phase).works is works


def test_nothing_follows_a_final_state_and_every_other_can_reach_one() -> None:
    assert {state for state, following in NEXT.items() if not following} == FINAL
    for state in set(State) - FINAL:
        assert NEXT[state] & FINAL


def test_every_input_error_is_a_user_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, InputError)]
    assert {kind.__name__ for kind in kinds} == set(USER_ERROR_TYPES)


@pytest.mark.parametrize(
    ("seen", "state", "reason"),
    [
        (Observation("SUCCEEDED", has_result=True), State.SUCCEEDED, Reason.DONE),
        # The driver wrote its result and was killed on its way out, or the head forgot it: the work is done.
        (Observation("FAILED", exit_code=-9, has_result=True), State.SUCCEEDED, Reason.DONE),
        (Observation("MISSING", has_result=True), State.SUCCEEDED, Reason.DONE),
        # Ray calls a killed driver behind a shell SUCCEEDED.
        (Observation("SUCCEEDED"), State.FAILED, Reason.NO_RESULT),
        (Observation("FAILED", exit_code=-9), State.FAILED, Reason.DRIVER_DIED),
        (Observation("FAILED", exit_code=2), State.FAILED, Reason.USER_ERROR),
        (Observation("FAILED", exit_code=1), State.FAILED, Reason.JOB_ERROR),
        (Observation("FAILED", exit_code=74), State.FAILED, Reason.DISK_FULL),
        (Observation("FAILED", exit_code=1, error={"type": "DiskFullError"}), State.FAILED, Reason.DISK_FULL),
        # It found that another driver had been there: Ray had forgotten that one.
        (Observation("FAILED", exit_code=75), State.FAILED, Reason.HEAD_LOST),
        (Observation("FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED"), State.FAILED, Reason.NODE_LOST),
        (Observation("FAILED", error_type="JOB_SUPERVISOR_ACTOR_START_TIMEOUT"), State.FAILED, Reason.START_FAILED),
        (Observation("FAILED", error_type="RUNTIME_ENV_SETUP_FAILURE"), State.FAILED, Reason.START_FAILED),
        (Observation("MISSING"), State.FAILED, Reason.HEAD_LOST),
        (Observation("STOPPED"), State.STOPPED, Reason.STOPPED),
        (Observation("FAILED", exit_code=2, error={"type": "DataError"}), State.FAILED, Reason.USER_ERROR),
        (Observation("FAILED", exit_code=1, error={"type": "OutOfMemoryError"}), State.FAILED, Reason.OUT_OF_MEMORY),
        (Observation("FAILED", exit_code=1, error={"type": "ActorDiedError"}), State.FAILED, Reason.NODE_LOST),
        (Observation("FAILED", exit_code=1, error={"type": "ValueError"}), State.FAILED, Reason.JOB_ERROR),
        (Observation("FAILED", exit_code=1, error={"type": "PreemptedError"}), State.FAILED, Reason.PREEMPTED),
    ],
)
def test_how_an_attempt_ended(seen: Observation, state: State, reason: Reason) -> None:
    assert ending(seen)[:2] == (state, reason)


def test_an_error_file_becomes_one_line() -> None:
    error = {"type": "DataError", "what": "12 of 20 rows are unusable", "where": "qa.jsonl", "remedy": "see quarantine"}
    assert error_line(error) == "qa.jsonl: 12 of 20 rows are unusable (see quarantine)"
    assert ending(Observation("FAILED", error=error))[2] == error_line(error)
