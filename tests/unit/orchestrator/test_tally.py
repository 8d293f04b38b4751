"""What has become of all jobs is counted once, whatever has happened since."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stand_ins.world import index_spec

from tandem.orchestrator.records import Records
from tandem.orchestrator.states import Reason, State
from tandem.orchestrator.tally import Tally


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    made = Records(database_url)
    yield made
    made.close()


def begin(records: Records, name: str) -> str:
    identifier = records.submit("index", name, index_spec(name))[0].id
    records.begin_attempt(identifier)
    return identifier


def test_without_records_all_there_could_be_counts_nought(records: Records) -> None:
    totals = Tally(records.database).totals()
    assert totals.ended["finetune", "FAILED", "node_lost"] == 0
    assert totals.retries["finetune", "head_lost"] == 0
    assert totals.attempts == {"index": 0, "finetune": 0, "compare": 0}
    assert {*totals.ended.values(), *totals.retries.values()} == {0}
    # What the server does itself has no attempts, and who steps aside always comes back.
    assert {kind for kind, _ in totals.retries} == {*totals.attempts}
    assert not [reason for *_, reason in totals.ended if reason in ("preempted", "submitted")]


def test_ends_retries_and_attempts_are_counted_as_they_come(records: Records) -> None:
    tally = Tally(records.database)
    done, lost = begin(records, "done"), begin(records, "lost")
    assert tally.totals().attempts["index"] == 2
    records.change(done, State.RUNNING, Reason.DRIVER_RUNS)
    records.change(done, State.SUCCEEDED, Reason.DONE)
    records.change(lost, State.RETRYING, Reason.NODE_LOST)
    # Its owner changes how it is queued: no retry of its own.
    records.submit("index", "lost", index_spec("lost", queue={"priority": 7}))
    first = tally.totals()
    records.begin_attempt(lost)
    records.change(lost, State.FAILED, Reason.NODE_LOST)
    second = tally.totals()
    assert (first.ended["index", "SUCCEEDED", "done"], first.ended["index", "FAILED", "node_lost"]) == (1, 0)
    assert (second.ended["index", "SUCCEEDED", "done"], second.ended["index", "FAILED", "node_lost"]) == (1, 1)
    assert [each.retries["index", "node_lost"] for each in (first, second)] == [1, 1]
    assert sum(second.retries.values()) == 1
    assert [each.attempts["index"] for each in (first, second)] == [2, 3]
    # One that begins now, as after a restart, comes to the same.
    assert Tally(records.database).totals() == second == tally.totals()


def test_what_another_version_called_otherwise_is_counted_too(records: Records) -> None:
    identifier = records.submit("forecast", "old", {"kind": "forecast", "name": "old"})[0].id
    records.begin_attempt(identifier)
    records.change(identifier, State.FAILED, Reason.JOB_ERROR)
    totals = Tally(records.database).totals()
    assert totals.ended["forecast", "FAILED", "job_error"] == totals.attempts["forecast"] == 1
