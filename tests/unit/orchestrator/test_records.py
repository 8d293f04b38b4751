from __future__ import annotations

import threading
from typing import Any

import pytest

from tandem.errors import InputError, NotFoundError
from tandem.orchestrator.identity import job_id
from tandem.orchestrator.jobs import Job, Submitter
from tandem.orchestrator.records import Records
from tandem.orchestrator.states import Reason, State


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


def test_the_same_name_and_spec_give_the_same_job_unless_again(url: str) -> None:
    records = Records(url)
    first, created = records.submit("index", "docs", {"a": 1})
    assert created
    assert first.id == job_id("index", "docs", {"a": 1})
    assert records.submit("index", "docs", {"a": 1}) == (first, False)
    assert records.submit("index", "docs", {"a": 1}, again=True)[0].id == f"{first.id}-2"
    third, _ = records.submit("index", "docs", {"a": 1}, again=True)
    assert third.id == f"{first.id}-3"
    # Without `again` it is the latest: one that failed and was tried again isn't what counts.
    assert records.submit("index", "docs", {"a": 1}) == (third, False)
    assert records.submit("index", "docs", {"a": 2})[0].id not in {first.id, f"{first.id}-2", f"{first.id}-3"}


def test_how_a_job_is_queued_is_no_part_of_what_it_is(url: str) -> None:
    records = Records(url)
    spec: dict[str, Any] = {"a": 1}
    first, _ = records.submit("index", "docs", {**spec, "queue": {"priority": 1}}, judged=True)
    assert first.id == job_id("index", "docs", spec)
    assert records.known("index", "docs", spec)
    assert not records.known("index", "docs", {"a": 2})
    # While it waits it is queued as it was last submitted; whether it fits was found out.
    again, created = records.submit("index", "docs", {**spec, "queue": {"priority": 9}})
    assert (again.id, created, again.queue.priority, again.judged) == (first.id, False, 9, True)
    records.begin_attempt(first.id)
    again, _ = records.submit("index", "docs", {**spec, "queue": {"priority": 2}})
    assert again.queue.priority == 9
    # Of before there was a choice.
    assert records.submit("index", "old", spec)[0].queue.project == "default"


def test_what_is_known_of_an_attempt_is_told_with_its_job_until_that_has_ended(url: str) -> None:
    times = iter(range(100, 200))
    records = Records(url, clock=lambda: float(next(times)))
    job, _ = records.submit("index", "docs", {})
    assert (job.history, job.waiting_since) == ((), job.created_at)
    records.note_first(job.id)
    (attempt,) = records.begin_attempt(job.id).history
    assert attempt.starting_since == attempt.submitted_at
    records.note_start(job.id, starting=False)
    records.ask_end(job.id, Reason.PREEMPTED, "made room for b")
    records.ask_end(job.id, Reason.RUN_TIMEOUT, "too late")
    attempt = records.get(job.id).current
    assert (attempt.starting_since, attempt.reason) == (None, None)
    assert (attempt.end_reason, attempt.end_message) == (Reason.PREEMPTED, "made room for b")
    retried = records.change(job.id, State.RETRYING, Reason.PREEMPTED)
    assert (retried.current.reason, retried.waiting_since) == (Reason.PREEMPTED, retried.current.ended_at)
    assert retried.first_at == 101
    second = records.begin_attempt(job.id)
    assert [attempt.number for attempt in second.history] == [1, 2]
    assert second.current.end_reason is None
    assert records.find()[0].history == records.get(job.id).history == second.history
    assert records.change(job.id, State.FAILED, Reason.USER_ERROR).history == ()


def test_the_id_depends_on_the_kind_and_not_on_the_order_of_keys() -> None:
    assert job_id("index", "x", {"a": 1, "b": 2}) == job_id("index", "x", {"b": 2, "a": 1})
    assert job_id("index", "x", {"a": 1}) != job_id("compare", "x", {"a": 1})
    assert job_id("index", "x", {}).startswith("x-")
    assert len(job_id("index", "x", {})) == len("x-") + 8


def test_every_change_is_a_row_with_time_and_reason_and_survives_a_restart(url: str) -> None:
    times = iter(range(100, 200))
    records = Records(url, clock=lambda: float(next(times)))
    job, _ = records.submit("index", "docs", {})
    records.begin_attempt(job.id)
    records.change(job.id, State.RUNNING, Reason.DRIVER_RUNS)
    records.change(job.id, State.RETRYING, Reason.NODE_LOST, "gone", not_before=500.0, exit_code=-9)
    records.close()

    again = Records(url)
    loaded = again.get(job.id)
    assert (loaded.state, loaded.reason, loaded.attempt, loaded.not_before) == (
        State.RETRYING,
        Reason.NODE_LOST,
        1,
        500.0,
    )
    events = again.events(job.id)
    assert [event["state"] for event in events] == ["QUEUED", "STARTING", "RUNNING", "RETRYING"]
    assert [event["reason"] for event in events] == ["submitted", "admitted", "driver_runs", "node_lost"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    (attempt,) = again.attempts(job.id)
    assert attempt["submission_id"] == f"{job.id}.1"
    assert (attempt["reason"], attempt["message"], attempt["exit_code"]) == ("node_lost", "gone", -9)


def test_a_step_that_the_state_machine_has_not_changes_nothing(url: str) -> None:
    records = Records(url)
    job, _ = records.submit("index", "docs", {})
    with pytest.raises(ValueError, match="QUEUED can't become SUCCEEDED"):
        records.change(job.id, State.SUCCEEDED, Reason.DONE)
    assert records.get(job.id).state is State.QUEUED
    assert len(records.events(job.id)) == 1


def test_a_name_finds_its_latest_job_and_an_unknown_one_says_so(url: str) -> None:
    records = Records(url)
    records.submit("index", "docs", {"a": 1})
    latest, _ = records.submit("index", "docs", {"a": 2})
    assert records.get("docs").id == latest.id
    with pytest.raises(NotFoundError, match="no job 'nope'"):
        records.get("nope")


def test_find_filters_and_keeps_the_order_of_submission(url: str) -> None:
    records = Records(url)
    ids = [records.submit(kind, name, {})[0].id for kind, name in [("index", "b"), ("compare", "a"), ("index", "c")]]
    assert [job.id for job in records.find()] == ids
    assert [job.id for job in records.find(limit=2)] == ids[1:]
    assert [job.id for job in records.find(kind="index")] == [ids[0], ids[2]]
    assert [job.id for job in records.find(states=[State.RUNNING])] == []


def test_submissions_from_many_threads_make_one_job(url: str) -> None:
    records = Records(url)
    made: list[bool] = []
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            made.append(records.submit("index", "docs", {})[1])
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(made) == 1
    assert len(records.find()) == 1


def test_text_that_a_database_cannot_hold_ends_no_job_and_finds_none(url: str) -> None:
    records = Records(url)
    job, _ = records.submit("index", "docs", {"pattern": "a\x00b"})
    records.begin_attempt(job.id)
    records.ask_end(job.id, Reason.RUN_TIMEOUT, "late\x00")
    records.change(job.id, State.FAILED, Reason.JOB_ERROR, "said \x00 and \udcff")
    assert records.get(job.id).message == "said \ufffd and ?"
    assert records.get(job.id).spec == {"pattern": "a\x00b"}
    for name in ("\x00", "\ud800"):
        with pytest.raises((NotFoundError, InputError)):
            records.get(name)
    with pytest.raises(InputError, match="can't hold"):
        records.find(limit=2**70)


def test_of_several_servers_that_change_a_job_at_once_one_does(url: str) -> None:
    servers = [Records(url) for _ in range(4)]
    job, _ = servers[0].submit("index", "docs", {})
    refused: list[ValueError] = []
    ready = threading.Barrier(len(servers))

    def start(records: Records) -> None:
        ready.wait()
        try:
            records.begin_attempt(job.id)
        except ValueError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=(records,)) for records in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["STARTING can't become STARTING" in str(error) for error in refused] == [True] * 3
    assert [event["state"] for event in servers[0].events(job.id)] == ["QUEUED", "STARTING"]
    assert len(servers[0].attempts(job.id)) == 1
    for records in servers:
        records.close()


def test_only_its_submitter_or_an_admin_has_a_waiting_job_queued_otherwise(url: str) -> None:
    records = Records(url)
    told: list[tuple[str, str]] = []

    def by(user: str, *, admin: bool = False) -> Submitter:
        return Submitter(user, before=lambda job_id: told.append((user, job_id)), admin=admin)

    def submit(priority: int, who: Submitter, kind: str = "index") -> Job:
        return records.submit(
            kind, "docs", {"a": 1, "queue": {"priority": priority, "project": f"p{priority}"}}, by=who
        )[0]

    for kind in ("index", "pipeline"):
        told.clear()
        job = submit(1, by("ada"), kind)
        if kind == "pipeline":
            records.change(job.id, State.RUNNING, Reason.DRIVER_RUNS)
        assert submit(9, by("bob"), kind).queue.priority == 1
        assert records.find(kind=kind)[0].spec["queue"]["project"] == "p1"
        assert told == [("ada", job.id)]
        assert submit(2, by("ada"), kind).queue.priority == 2
        assert submit(3, by("root", admin=True), kind).queue.priority == 3
        submit(3, by("ada"), kind)
        assert [user for user, _ in told] == ["ada", "ada", "root", "ada"]
        # What changes nothing is no change.
        changes = [each for each in records.events(job.id) if each["reason"] == "submitted"]
        assert [change["message"] for change in changes] == [
            "", "queued as ada submitted it again", "queued as root submitted it again"
        ]  # fmt: skip
    assert records.get(job.id).user == "ada"
