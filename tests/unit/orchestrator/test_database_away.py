"""The database goes away for a while, or has no room: nothing is lost, nothing is done twice, and all goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine
from stand_ins.postgres import missing, postgres
from stand_ins.world import World, index_spec, make_cluster

from tandem.errors import DatabaseError
from tandem.orchestrator import database
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.holder import Holder
from tandem.orchestrator.lease import Lease
from tandem.orchestrator.pace import Pace
from tandem.orchestrator.records import Records
from tandem.server.__main__ import loop
from tandem.server.app import create_app


def api(world: World) -> TestClient:
    deployer = world.deployer(lambda _: httpx.Response(200, json={}))
    app = create_app(world.records, world.orchestrator, deployer, world.keys())
    return TestClient(app, headers={"Authorization": "Bearer secret-key"}, raise_server_exceptions=False)


def check_it_says_so(client: TestClient, what: str) -> None:
    for call in (
        lambda: client.get("/api/v1/jobs"),
        lambda: client.get("/api/v1/status"),
        lambda: client.post("/api/v1/jobs", json={"spec": index_spec("other")}),
    ):
        told = call()
        assert told.status_code == 503, told.text
        assert int(told.headers["retry-after"]) > 0
        error = told.json()["error"]
        assert error["type"] == "DatabaseError"
        assert what in error["what"]
        assert "nothing is lost" in error["remedy"]
    assert client.get("/healthz").status_code == 200


def check_it_goes_on(world: World, client: TestClient, job_id: str) -> None:
    """A job that was running, and one that is submitted now."""
    later = client.post("/api/v1/jobs", json={"spec": index_spec("other")})
    assert (later.status_code, later.json()["created"]) == (200, True)
    (world.orchestrator.files(job_id).path / "result.json").write_text("{}")
    world.ray.set(f"{job_id}.1", "SUCCEEDED")
    world.orchestrator.step()
    world.orchestrator.step()
    assert world.records.get(job_id).state == "SUCCEEDED"
    assert world.ray.submit_calls == [f"{job_id}.1", f"{later.json()['id']}.1"]
    states = [event["state"] for event in world.records.events(job_id)]
    assert states.count("SUCCEEDED") == states.count("STARTING") == 1


@pytest.mark.skipif(bool(missing()), reason=str(missing()))
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_postgres_goes_away_and_comes_back(tmp_path: Path, how: signal.Signals) -> None:
    with postgres(durable=True) as running:
        cluster = replace(make_cluster(tmp_path), database_url=running.database())
        records = Records(cluster.database_url, clock=lambda: world.now)
        world = World(cluster, records)
        lease = Lease(records.database, Holder.this())
        world.orchestrator = Orchestrator(
            records, world.ray, cluster, world.policy, world.rules, clock=lambda: world.now, lease=lease
        )
        job = world.submit()
        # It goes away between the call and its acknowledgement.
        submit = world.ray.submit

        def submit_and_stop(*arguments: Any) -> None:
            submit(*arguments)
            running.stop(how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.ray, "submit", submit_and_stop)
            with pytest.raises(DatabaseError, match="can't be used now"):
                world.orchestrator.step()
        client = api(world)
        check_it_says_so(client, "can't be used now")
        with pytest.raises(DatabaseError):
            world.orchestrator.step()
        running.start()
        world.orchestrator.step()
        assert world.records.get(job.id).acknowledged
        check_it_goes_on(world, client, job.id)
        records.close()


def test_sqlite_is_locked_by_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    cluster = make_cluster(tmp_path)
    world = World(cluster, Records(cluster.database_url, clock=lambda: world.now))
    job = world.submit()
    world.orchestrator.step()
    engine = create_engine(cluster.database_url)
    with engine.connect() as other:
        other.exec_driver_sql("BEGIN EXCLUSIVE")
        world.ray.set(f"{job.id}.1", "FAILED", exit_code=-9)
        with pytest.raises(DatabaseError, match="locked"):
            world.orchestrator.step()
        told = api(world).post("/api/v1/jobs", json={"spec": index_spec("other")})
        assert (told.status_code, told.json()["error"]["type"]) == (503, "DatabaseError")
        # Reading goes on.
        assert api(world).get(f"/api/v1/jobs/{job.id}").json()["state"] == "STARTING"
        other.exec_driver_sql("ROLLBACK")
    engine.dispose()
    world.ray.set(f"{job.id}.1", "RUNNING")
    check_it_goes_on(world, api(world), job.id)
    world.records.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = os.getuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, check=False
    ).returncode  # fmt: skip
    if not mounted:
        pytest.skip("a file system can't be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0" * 4096)
    return filler


def test_a_full_disk_under_the_database(small_disk: Path) -> None:
    cluster = make_cluster(small_disk)
    (small_disk / "jobs").mkdir()
    world = World(cluster, Records(cluster.database_url, clock=lambda: world.now))
    job = world.submit()
    world.orchestrator.step()
    world.ray.set(f"{job.id}.1", "RUNNING")
    client = api(world)  # which writes its keys down
    filler = fill(small_disk)
    told = None
    for number in range(200):  # what room the log of the database has is used up first
        told = client.post("/api/v1/jobs", json={"spec": index_spec(f"n{number}")})
        if told.status_code != 200:
            break
        world.records.request_stop(told.json()["id"])
    assert told is not None
    assert told.status_code == 503, told.text
    assert "disk is full" in told.json()["error"]["what"]
    assert told.json()["error"]["remedy"].startswith("make room")
    world.ray.set(f"{job.id}.1", "FAILED", exit_code=-9)
    with pytest.raises(DatabaseError, match="full"):
        world.orchestrator.step()
    assert client.get(f"/api/v1/jobs/{job.id}").status_code == 200
    world.ray.set(f"{job.id}.1", "RUNNING")
    filler.unlink()
    check_it_goes_on(world, client, job.id)
    world.records.close()


def test_a_full_disk_under_the_storage_folder(tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "jobs").mkdir()
    cluster = replace(make_cluster(small_disk), database_url=f"sqlite:///{tmp_path / 'tandem.db'}")
    world = World(cluster, Records(cluster.database_url, clock=lambda: world.now))
    running, waiting = world.submit("a"), None
    world.orchestrator.step()
    world.ray.set(f"{running.id}.1", "RUNNING", printed="first\n")
    world.orchestrator.step()
    filler = fill(small_disk)
    waiting = world.submit("b")
    world.ray.set(f"{running.id}.1", "FAILED", printed="x" * 100_000 + "\nlast\n", exit_code=-9)
    for _ in range(3):
        world.now += 1
        world.orchestrator.step()
    # Its last lines can't be kept yet, so its end isn't written down; the other one can't be started.
    assert (world.state(running), world.state(waiting)) == ("RUNNING", "STARTING")
    for job in (running, waiting):
        assert "No space left on device" in (world.orchestrator.waits(job.id) or "")
    assert world.ray.submit_calls == [f"{running.id}.1"]
    filler.unlink()
    world.now += 1
    world.orchestrator.step()
    assert world.state(running) == "RETRYING"
    assert world.orchestrator.files(running.id).read_log(0)[0].decode().startswith("first\nxxx")
    assert world.orchestrator.files(running.id).read_log(100_000)[0].decode().endswith("\nlast\n")
    assert world.ray.submit_calls == [f"{running.id}.1", f"{waiting.id}.1"]
    world.records.close()


def test_the_loop_outlives_a_database_that_is_away_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.orchestrator.pace.TURN_EVERY_S", 0.001)
    (tmp_path / "cluster.json").touch()
    stopping, turns = threading.Event(), iter(range(100))

    class Away:
        pace = Pace()

        def step(self, *, quick: bool) -> None:
            turn = next(turns)
            if turn < 5:
                raise DatabaseError("the database can't be used now")
            if turn > 8:
                stopping.set()

    loop(Away(), tmp_path / "cluster.json", stopping)  # type: ignore[arg-type]
    said = [record.message for record in caplog.records]
    assert said == ["the database can't be used now", "the control loop goes on"]


def test_a_loop_whose_turns_fail_says_so_once_and_the_server_is_no_longer_healthy(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.orchestrator.pace.TURN_EVERY_S", 0.001)
    (world.cluster.storage / "cluster.json").touch()
    now = 0.0
    world.orchestrator.pace = Pace(lambda: now)
    stopping, turns = threading.Event(), iter(range(100))
    client = api(world)
    healthy: list[int] = []

    def step(*, quick: bool) -> None:
        nonlocal now
        turn = next(turns)
        healthy.append(client.get("/healthz").status_code)
        now += 20
        if turn == 8:
            stopping.set()
        if turn < 6:
            raise KeyError("accelerator_type")

    monkeypatch.setattr(world.orchestrator, "step", step)
    loop(world.orchestrator, world.cluster.storage / "cluster.json", stopping)
    assert healthy == [200] * 4 + [503] * 3 + [200] * 2
    said = [record for record in caplog.records if record.name == "tandem.server"]
    assert [record.message for record in said] == [
        "a turn of the control loop failed: KeyError: 'accelerator_type'", "the control loop goes on"
    ]  # fmt: skip
    assert said[0].exc_info
    # It hangs.
    now += 60
    assert client.get("/healthz").json()["error"]["what"] == "the control loop hasn't come further for 60 s"
