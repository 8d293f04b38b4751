"""What Prometheus is told of the server and of its jobs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from stand_ins.shell import FakeServe
from stand_ins.world import World

import tandem
from tandem.errors import DatabaseError
from tandem.orchestrator.lease import LeaseLostError
from tandem.orchestrator.pace import STALLED_AFTER_S, Pace
from tandem.orchestrator.roles import Role, ServerKeys
from tandem.server.__main__ import loop
from tandem.server.app import create_app

Value = Callable[..., float | None]


def values(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = client.get("/metrics")
    assert response.status_code == 200, response.text
    families = text_string_to_metric_families(response.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


@pytest.fixture
def value(client: TestClient) -> Value:
    """What a scrape says now of one time series; None where it says nothing."""

    def now(name: str, **labels: str) -> float | None:
        return values(client).get((name, frozenset(labels.items())))

    return now


def test_a_viewers_key_is_enough_and_none_is_too_little(client: TestClient, keys: ServerKeys) -> None:
    key, _ = keys.add("prometheus", Role.VIEWER)
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 403


def test_it_says_which_versions_run(client: TestClient) -> None:
    (labels,) = [dict(labels) for name, labels in values(client) if name == "tandem_build_info"]
    assert labels.keys() == {"tandem", "python", "ray"}
    assert labels["tandem"] == tandem.__version__


def test_jobs_are_counted_by_where_they_stand_and_how_they_ended(world: World, value: Value) -> None:
    assert value("tandem_jobs", kind="index", state="QUEUED") == 0
    assert value("tandem_jobs_ended_total", kind="index", state="SUCCEEDED", reason="done") == 0
    world.submit("a")
    world.submit("b")
    assert value("tandem_jobs", kind="index", state="QUEUED") == 2
    for state in ("STARTING", "RUNNING"):
        world.turn()
        assert value("tandem_jobs", kind="index", state="QUEUED") == 0
        assert value("tandem_jobs", kind="index", state=state) == 2
    world.turn()
    assert value("tandem_jobs", kind="index", state="RUNNING") == 0
    assert value("tandem_jobs_ended_total", kind="index", state="SUCCEEDED", reason="done") == 2
    assert value("tandem_job_attempts_total", kind="index") == 2


def test_an_attempt_that_is_tried_again_is_counted_by_its_reason(world: World, value: Value) -> None:
    job = world.submit()
    world.orchestrator.step()
    world.ray.set(f"{job.id}.1", "FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED")
    world.orchestrator.step()
    assert world.state(job) == "RETRYING"
    assert value("tandem_jobs", kind="index", state="RETRYING") == 1
    assert value("tandem_job_retries_total", kind="index", reason="node_lost") == 1
    assert value("tandem_jobs_ended_total", kind="index", state="FAILED", reason="node_lost") == 0


def test_a_new_server_counts_on(world: World, keys: ServerKeys, client: TestClient) -> None:
    world.submit()
    for _ in range(3):
        world.turn()
    counters = ("tandem_jobs_ended_total", "tandem_job_attempts_total", "tandem_job_retries_total")
    before = {key: number for key, number in values(client).items() if key[0] in counters}
    assert sum(before.values()) == 2
    world.restart()
    app = create_app(world.records, world.orchestrator, world.deployer(FakeServe()), keys)
    after = values(TestClient(app, headers={"Authorization": "Bearer secret-key"}))
    assert {key: number for key, number in after.items() if key[0] in counters} == before


def test_the_first_in_line_is_the_one_of_the_highest_priority(world: World, value: Value) -> None:
    assert value("tandem_queue_first_wait_seconds") == 0
    world.ray.down = True
    world.submit("early")
    world.now += 100
    world.submit("late")
    world.now += 10
    assert value("tandem_queue_first_wait_seconds") == 110
    world.submit("urgent", queue={"priority": 5})
    world.now += 1
    assert value("tandem_queue_first_wait_seconds") == 1


def test_who_waits_for_its_next_attempt_stands_in_no_line(world: World, value: Value) -> None:
    job = world.submit()
    world.orchestrator.step()
    world.ray.set(f"{job.id}.1", "FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED")
    world.orchestrator.step()
    world.now += 4.0
    assert value("tandem_queue_first_wait_seconds") == 0
    world.now += 3.0
    assert value("tandem_queue_first_wait_seconds") == 7


def test_the_cluster_has_what_ray_says_and_jobs_hold_what_they_ask_for(world: World, value: Value) -> None:
    world.ray.nodes = [{"CPU": 4.0, "GPU": 2.0, "accelerator_type:A100": 1.0, "memory": 1e9, "node:10.0.0.1": 1.0}]
    world.submit(embedder={"workers": 2, "gpus": 0.5})
    world.orchestrator.step()
    assert value("tandem_resources_offered", resource="CPU") == 4
    assert value("tandem_resources_offered", resource="GPU") == 2
    assert value("tandem_resources_offered", resource="GPU:A100") == 2
    assert value("tandem_resources_offered", resource="memory") is None
    assert value("tandem_resources_held", resource="CPU") == 3
    assert value("tandem_resources_held", resource="GPU") == 1


def test_what_ray_alone_knows_is_missing_while_it_is_down(world: World, value: Value) -> None:
    world.orchestrator.step()
    assert value("tandem_ray_up") == 1
    world.ray.down = True
    world.orchestrator.step()
    assert value("tandem_ray_up") == 0
    assert value("tandem_resources_offered", resource="CPU") is None


def test_one_that_stands_by_says_so(world: World, value: Value) -> None:
    assert value("tandem_acts") == 1
    world.orchestrator.acts = False
    assert value("tandem_acts") == 0


def test_without_its_database_it_tells_the_rest(world: World, value: Value, monkeypatch: pytest.MonkeyPatch) -> None:
    assert value("tandem_database_up") == 1

    def away(**_: Any) -> None:
        raise DatabaseError("the database can't be used now")

    monkeypatch.setattr(world.records, "find", away)
    assert value("tandem_database_up") == 0
    assert value("tandem_acts") == 1
    assert value("tandem_jobs", kind="index", state="QUEUED") is None
    monkeypatch.undo()
    assert value("tandem_jobs", kind="index", state="QUEUED") == 0


def test_room_under_the_storage_folder(world: World, value: Value, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(world.cluster.storage)
    assert value("tandem_storage_size_bytes") == usage.total
    assert 0 < (value("tandem_storage_free_bytes") or 0) <= usage.total

    def unmounted(_: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(shutil, "disk_usage", unmounted)
    assert value("tandem_storage_free_bytes") is None


def test_how_the_control_loop_goes(world: World, value: Value, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.orchestrator.pace.TURN_EVERY_S", 0.001)
    now = 0.0
    pace = world.orchestrator.pace = Pace(lambda: now)
    assert value("tandem_control_loop_idle_seconds") == 0
    assert value("tandem_control_loop_turn_seconds_count") == 0
    (world.cluster.storage / "cluster.json").touch()
    stopping = threading.Event()
    ends: list[Exception | None] = [
        DatabaseError("it is locked"),
        None,
        LeaseLostError("it is another's"),
        KeyError("x"),
    ]

    def step(*, quick: bool) -> None:
        nonlocal now
        now += 2.0
        end = ends.pop(0)
        if not ends:
            stopping.set()
        if end is not None:
            raise end

    monkeypatch.setattr(world.orchestrator, "step", step)
    loop(world.orchestrator, world.cluster.storage / "cluster.json", stopping)
    assert value("tandem_control_loop_turn_seconds_count") == 4
    assert value("tandem_control_loop_turn_seconds_sum") == 8
    assert value("tandem_control_loop_turn_seconds_bucket", le="1.0") == 0
    assert value("tandem_control_loop_failed_turns_total", why="database") == 1
    assert value("tandem_control_loop_failed_turns_total", why="unforeseen") == 1
    # A loop whose turns fail beats, and doesn't come further.
    now += STALLED_AFTER_S
    pace.beat()
    assert value("tandem_control_loop_idle_seconds") == STALLED_AFTER_S == pace.stalled_s()


def test_there_are_as_many_time_series_as_before_after_any_number_of_jobs(world: World, client: TestClient) -> None:
    world.orchestrator.step()
    before = values(client).keys()
    names = [f"some-name-{number}" for number in range(30)]
    for name in names:
        world.submit(name, queue={"project": f"of-{name}"})
    for _ in range(40):
        world.turn()
    assert sum(world.records.counts().values()) == 30
    assert values(client).keys() == before
    said = client.get("/metrics").text
    assert not [word for word in (*names, "ada") if word in said]
