"""Drills: what is killed, on a cluster of the real command line with its records in a real Postgres.

docs/on-call.md tells each of them from the side of the people on call.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace

import httpx
import psutil
import pytest
from stand_ins.command_line import Tandem, until
from stand_ins.drills import Training, ends_once
from stand_ins.held_requests import held_requests
from stand_ins.postgres import Postgres, missing, postgres
from tiny_models import write_embedder, write_llama

from tandem.orchestrator.local import Marks, down
from tandem.orchestrator.processes import marked
from tandem.orchestrator.server_process import start_server
from tandem.orchestrator.settings import ServerSettings

STEPS = 60
EVERY = 10
pytestmark = pytest.mark.skipif(bool(missing()), reason=str(missing()))


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres(durable=True) as running:
        yield running


@pytest.fixture(scope="module")
def tandem(tmp_path_factory: pytest.TempPathFactory, database: Postgres) -> Iterator[Tandem]:
    folder = tmp_path_factory.mktemp("drills")
    made = Tandem(folder)
    (folder / "docs").mkdir()
    (folder / "docs" / "ports.md").write_text("# Ports\n\nThe port of the first part is 8001.\n")
    rows = [{"id": f"r{n}", "question": f"What is number {n}?", "answers": [str(n * 7 % 10)]} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cluster = {
        "kind": "cluster",
        "ports": {"gcs": 0, "dashboard": 0, "server": 0, "endpoint": 0},
        "cpus": 8,
        "database": database.database(),
    }
    schedule = {"max_steps": STEPS, "epochs": 100, "learning_rate": 0.01, "batch_size": 8, "micro_batch_size": 2}
    tune = {
        "kind": "finetune",
        "model": str(write_llama(folder / "llama", hidden=32)),
        "data": {"train": str(folder / "rows.jsonl"), "eval_fraction": 0.0},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "precision": "fp32",
        "workers": 2,
        "schedule": {**schedule, "max_length": 256},
        "checkpoint": {"every_steps": EVERY},
    }
    embedder = write_embedder(folder / "embedder")
    index = {"kind": "index", "sources": ["docs"], "embedder": {"model": str(embedder)}}
    specs = {"cluster": cluster, "index": {**index, "name": "held"}, "stopped": {**index, "name": "stopped"}}
    specs |= {name: {**tune, "name": name} for name in ("alone", "disturbed")}
    for name, spec in specs.items():
        (folder / f"{name}.yaml").write_text(json.dumps(spec))
    made("up", "cluster.yaml")
    try:
        yield made
    finally:
        down(made.storage)


@pytest.fixture(scope="module")
def alone(tandem: Tandem) -> Training:
    """A fine-tune whose processes nobody touches; it runs while others are drilled."""
    return submitted(tandem, "alone")


def submitted(tandem: Tandem, name: str) -> Training:
    return Training(tandem, tandem("submit", f"{name}.yaml").strip(), EVERY)


def kill(*processes: psutil.Process) -> None:
    """As a machine that is switched off."""
    for process in processes:
        # The end of one may be another's: a head's processes watch each other.
        with suppress(psutil.NoSuchProcess) if len(processes) > 1 else nullcontext():
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=20)


def server_of(tandem: Tandem) -> list[psutil.Process]:
    return marked(Marks.of(tandem.storage).server)


def api(tandem: Tandem, method: str, path: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {tandem.cluster.api_key()}"}
    return httpx.request(
        method, f"{tandem.cluster.server_url}/api/v1{path}", headers=headers, timeout=30, trust_env=False
    )


def worker_of(tandem: Tandem, training: Training) -> psutil.Process:
    """One of the processes that train."""
    found = []
    for process in marked(Marks.of(tandem.storage).ray):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            found.append(process)
    assert len(found) == 2
    return found[-1]


def test_what_was_on_its_way_to_ray_when_the_server_died_runs_once_or_not_at_all(
    tandem: Tandem, alone: Training
) -> None:
    until(lambda: tandem.driver(alone.id))
    with held_requests(tandem.cluster.dashboard_url) as proxy:
        settings = ServerSettings.load(tandem.storage / "server.json")
        far = replace(settings, cluster=replace(settings.cluster, dashboard_url=proxy.url))

        def restart() -> None:
            kill(*server_of(tandem))
            start_server(far, Marks.of(tandem.storage).server)

        restart()
        proxy.holding.set()
        job_id = tandem("submit", "index.yaml").strip()
        assert proxy.held.wait(60)
        # It is written down that the job starts; Ray knows nothing of it.
        assert [event["state"] for event in tandem.json("show", job_id)["events"]] == ["QUEUED", "STARTING"]
        restart()
        until(lambda: 200 in proxy.answers)
        proxy.let_go.set()
        assert proxy.arrived.wait(60)
        assert sorted(proxy.answers) == [200, 500]
        job = ends_once(tandem, job_id)
        assert [attempt["reason"] for attempt in job["attempts"]] == ["done"]

        for event in (proxy.held, proxy.let_go, proxy.arrived):
            event.clear()
        proxy.holding.set()
        stopped_id = tandem("submit", "stopped.yaml").strip()
        assert proxy.held.wait(60)
        assert api(tandem, "POST", f"/jobs/{stopped_id}/stop").json()["state"] == "STARTING"
        restart()
        ends_once(tandem, stopped_id, "STOPPED")
        proxy.let_go.set()
        assert proxy.arrived.wait(60)
        # Ray starts it, and it ends by itself before it has done anything.
        ray = httpx.Client(
            base_url=proxy.url,
            headers={"Authorization": f"Bearer {(tandem.storage / 'ray-token').read_text().strip()}"},
            trust_env=False,
        )
        late = until(
            lambda: [
                submission
                for submission in ray.get("/api/jobs/").json()
                if submission["submission_id"] == f"{stopped_id}.1" and submission["status"] == "FAILED"
            ]
        )
        assert late[0]["driver_exit_code"] == 75
        assert not (tandem.storage / "jobs" / stopped_id / "progress.json").exists()
        ends_once(tandem, stopped_id, "STOPPED")
    kill(*server_of(tandem))
    assert tandem.json("up", "cluster.yaml")["started"] == ["server"]


def test_a_fine_tune_outlives_a_worker_its_driver_the_server_the_head_and_the_database(
    tandem: Tandem, database: Postgres, alone: Training
) -> None:
    ends_once(tandem, alone.id)
    disturbed = submitted(tandem, "disturbed")

    disturbed.done(10, starts=1)
    kill(worker_of(tandem, disturbed))

    disturbed.done(20, starts=2)
    driver = tandem.driver(disturbed.id)
    assert driver is not None
    kill(driver)
    until(lambda: tandem.job(disturbed.id)["state"] == "RETRYING")
    kill(*server_of(tandem))
    tandem("ps", status=3)
    assert tandem.json("up", "cluster.yaml")["started"] == ["server"]

    disturbed.done(30, starts=3)
    kill(*marked(Marks.of(tandem.storage).ray))
    assert tandem.json("show", disturbed.id)["state"] == "RUNNING"
    assert tandem.json("up", "cluster.yaml")["started"] == ["ray"]

    disturbed.done(40, starts=4)
    database.stop(signal.SIGKILL)
    told = api(tandem, "GET", "/jobs")
    assert (told.status_code, told.json()["error"]["type"]) == (503, "DatabaseError")
    assert int(told.headers["retry-after"]) > 0
    tandem("ps", status=3)
    # It trains on, and has ended before the records are back.
    until((disturbed.folder / "result.json").exists)
    database.start()

    job = ends_once(tandem, disturbed.id)
    assert [attempt["reason"] for attempt in job["attempts"]] == ["driver_died", "head_lost", "done"]
    result = json.loads((disturbed.folder / "result.json").read_text())
    resumed = result["resumed_at"]
    assert len(resumed) == 3
    assert all(step > 0 for step in resumed), resumed
    assert (len(disturbed.losses()), result["steps"]) == (STEPS, STEPS)
    assert disturbed.losses() == alone.losses()
