from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import text
from stand_ins.world import World, index_spec

from tandem.orchestrator.database import Database, open_database
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.holder import Holder
from tandem.orchestrator.lease import LEASE_S, RENEW_EVERY_S, Lease, LeaseLostError
from tandem.orchestrator.records import Records
from tandem.orchestrator.schema import migrate


@dataclass
class Clocks:
    """A clock that somebody sets, and one that nobody does."""

    wall: float = 1_000_000.0
    steady: float = 500.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(open_database(database_url))
    migrate(made)
    yield made
    made.close()


def holder(name: str, *, boot: str = "") -> Holder:
    return Holder(boot, f"place-{name}", 1, "1", name)


def lease(database: Database, clocks: Clocks, name: str, *, boot: str = "") -> Lease:
    return Lease(database, holder(name, boot=boot), clock=lambda: clocks.wall, steady=lambda: clocks.steady)


def expire(database: Database) -> None:
    """As the database's clock does it."""
    with database.write() as session:
        session.execute(text("UPDATE leases SET expires_at = 1"))


def test_one_of_two_acts_and_the_other_takes_over_when_it_has_expired(database: Database, clocks: Clocks) -> None:
    first, second = lease(database, clocks, "a"), lease(database, clocks, "b")
    assert (first.keep(), second.keep()) == (0.0, None)
    assert (first.epoch, second.epoch) == (1, None)
    expire(database)
    # Whoever comes first: it may be the one that held it.
    clocks.pass_by(RENEW_EVERY_S)
    assert (first.keep(), second.keep()) == (0.0, None)
    expire(database)
    assert (second.keep(), second.epoch) == (0.0, 2)
    clocks.pass_by(RENEW_EVERY_S)
    assert (first.keep(), first.epoch) == (None, None)
    with pytest.raises(LeaseLostError):
        first.check()


def test_a_database_whose_clock_was_set_back_hides_no_death(database: Database, clocks: Clocks) -> None:
    first, second = lease(database, clocks, "a"), lease(database, clocks, "b")
    first.keep()
    with database.write() as session:
        session.execute(text("UPDATE leases SET expires_at = expires_at + 3600"))
    assert second.keep() is None
    clocks.pass_by(LEASE_S - 1)
    first.keep()
    assert second.keep() is None
    clocks.pass_by(LEASE_S - 1)
    assert second.keep() is None
    clocks.pass_by(1)
    assert second.keep() == 0.0


def test_one_that_ends_in_order_leaves_the_lease_free(database: Database, clocks: Clocks) -> None:
    first, second = lease(database, clocks, "a"), lease(database, clocks, "b")
    first.keep()
    first.release()
    assert second.keep() == 0.0
    first.release()
    assert second.keep() == 0.0


def test_a_process_that_is_seen_to_have_gone_is_not_waited_for(database: Database, clocks: Clocks) -> None:
    code = "from tandem.orchestrator.holder import Holder; print(Holder.this(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        gone = Holder.parse(process.stdout.readline().strip())
        assert gone is not None
        assert not gone.has_died(Holder.this())
        first = Lease(database, gone)
        assert first.keep() == 0.0
        second = Lease(database, Holder.this())
        assert second.keep() is None
        process.kill()
        process.wait()
        assert gone.has_died(Holder.this())
        # Of another machine, or of another container, nothing is known.
        assert not gone.has_died(replace(Holder.this(), boot="other"))
        assert not gone.has_died(replace(Holder.this(), place="other"))
        assert second.keep() == 0.0


@pytest.mark.parametrize("written", ["", "something else", "a b c d e"])
def test_what_another_program_wrote_is_no_holder(written: str) -> None:
    assert Holder.parse(written) is None
    assert Holder.parse(str(holder("a"))) == holder("a")


def second_server(world: World, name: str, clocks: Clocks) -> tuple[Records, Orchestrator]:
    records = Records(world.cluster.database_url, clock=lambda: clocks.wall)
    held = lease(records.database, clocks, name)
    made = Orchestrator(
        records, world.ray, world.cluster, world.policy, world.rules, clock=lambda: clocks.wall, lease=held
    )
    return records, made


def test_a_server_that_was_frozen_in_a_turn_does_nothing_when_it_wakes_up(
    world: World, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    (records, first), (others, second) = (second_server(world, name, clocks) for name in "ab")
    job = world.submit()
    first.step()
    second.step()
    assert (first.acts, second.acts) == (True, False)
    world.ray.set(f"{job.id}.1", "FAILED", exit_code=-9)
    machines = world.ray.machines

    def freeze() -> object:
        monkeypatch.undo()
        # It has taken what it knows of the jobs from the records, and sleeps now.
        clocks.pass_by(LEASE_S)
        expire(records.database)
        second.step()
        clocks.pass_by(10)
        second.step()
        return machines()

    monkeypatch.setattr(world.ray, "machines", freeze)
    with pytest.raises(LeaseLostError):
        first.step()
    first.step()
    assert (first.acts, second.acts) == (False, True)
    assert world.ray.submit_calls == [f"{job.id}.1", f"{job.id}.2"]
    assert [event["state"] for event in records.events(job.id)] == ["QUEUED", "STARTING", "RETRYING", "STARTING"]
    # Both answer, and what is submitted to the one is started by the other.
    late, _ = records.submit("index", "late", index_spec("late"))
    second.step()
    assert others.get(late.id).state == "STARTING"
    assert first.judge(late.spec)
    for made in (records, others):
        made.close()


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_is_set_ends_no_job_and_lets_none_go_first(
    world: World, clocks: Clocks, hours: int, restarts: bool
) -> None:
    def server(name: str) -> tuple[Records, Orchestrator]:
        records = Records(world.cluster.database_url, clock=lambda: clocks.wall)
        held = lease(records.database, clocks, name, boot="this start")
        orchestrator = Orchestrator(
            records, world.ray, world.cluster, world.policy, world.rules, clock=lambda: clocks.wall, lease=held
        )
        return records, orchestrator

    records, orchestrator = server("a")
    limits = {"max_start_s": 60, "max_run_s": 100, "max_wait_s": 100}

    def submit(name: str) -> str:
        return records.submit("index", name, index_spec(name, queue=limits))[0].id

    world.ray.nodes = [{"CPU": 2.0}]
    running = submit("running")
    orchestrator.step()
    world.ray.set(f"{running}.1", "RUNNING")
    waiting = submit("waiting")
    clocks.pass_by(30)
    orchestrator.step()
    states = {identifier: records.get(identifier).state for identifier in (running, waiting)}
    assert states == {running: "RUNNING", waiting: "QUEUED"}
    assert orchestrator.waits(running) == "starting for 30 s, of at most 60 s"

    clocks.wall += 3600 * hours
    if restarts:
        records.close()
        clocks.pass_by(LEASE_S)
        expire_by(world)
        records, orchestrator = server("b")
    for _ in range(2):
        orchestrator.step()
        assert {identifier: records.get(identifier).state for identifier in states} == states
    waited = 45 if restarts else 30
    assert orchestrator.waits(running) == f"starting for {waited} s, of at most 60 s"
    clocks.pass_by(60 - waited)
    orchestrator.step()
    orchestrator.step()
    assert records.get(running).current.end_reason == "start_timeout"
    clocks.pass_by(40)
    orchestrator.step()
    assert records.get(waiting).reason == "queue_timeout"
    records.close()


def expire_by(world: World) -> None:
    database = Database(open_database(world.cluster.database_url))
    expire(database)
    database.close()
