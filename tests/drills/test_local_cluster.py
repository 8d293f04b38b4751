"""A local cluster through the real command line: it survives what is killed in it, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from stand_ins.command_line import Tandem, until
from tiny_models import write_embedder, write_llama

from tandem.config.cluster import Cluster
from tandem.orchestrator.local import Marks, down
from tandem.orchestrator.ray_jobs import HttpRayJobs

SECRET = "only-for-the-job"


@pytest.fixture(scope="module")
def tandem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tandem]:
    folder = tmp_path_factory.mktemp("local")
    made = Tandem(folder)
    (folder / "docs").mkdir()
    for number in range(3):
        (folder / "docs" / f"{number}.md").write_text(
            f"# Part {number}\n\nThe port of part {number} is {8000 + number}.\n"
        )
    embedder = write_embedder(folder / "embedder")
    (folder / "cluster.yaml").write_text(
        "kind: cluster\nports: {gcs: 0, dashboard: 0, server: 0, endpoint: 0}\ncpus: 4\n"
    )
    for name in ("first", "second"):
        spec = {"kind": "index", "name": name, "sources": ["docs"], "embedder": {"model": str(embedder)}}
        # JSON is YAML too.
        (folder / f"{name}.yaml").write_text(json.dumps(spec))
    made("up", "cluster.yaml")
    try:
        yield made
    finally:
        down(made.storage)


def test_up_twice_is_up_once(tandem: Tandem) -> None:
    before = {process.pid for process in tandem.processes()}
    assert tandem.json("up", "cluster.yaml")["started"] == []
    assert set(Cluster.load(tandem.storage).pids.values()) <= before
    assert tandem.json("status")["ray"] == "up"


def test_a_job_outlives_the_command_that_follows_it(tandem: Tandem) -> None:
    command = [*tandem.command, "submit", "first.yaml", "--follow"]
    with subprocess.Popen(
        command, cwd=tandem.folder, env=tandem.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as follower:
        assert follower.stdout is not None
        job_id = follower.stdout.readline().strip()
        follower.kill()
    assert [job["id"] for job in tandem.json("ps")] == [job_id]
    log = tandem("logs", job_id, "-f")
    assert "[done]" in log
    job = tandem.json("show", job_id)
    assert (job["state"], job["reason"], job["attempt"]) == ("SUCCEEDED", "done", 1)
    assert [event["state"] for event in job["events"]] == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
    assert tandem("submit", "first.yaml") == f"{job_id}\n"


def test_a_killed_driver_is_tried_again_and_a_killed_server_knows_of_it(tandem: Tandem) -> None:
    job_id = tandem("submit", "second.yaml").strip()

    until(lambda: tandem.driver(job_id)).send_signal(signal.SIGKILL)
    until(lambda: tandem.job(job_id)["attempts"][0]["reason"])
    server = psutil.Process(Cluster.load(tandem.storage).pids["server"])
    server.kill()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    tandem("ps", status=3)
    assert tandem.json("up", "cluster.yaml")["started"] == ["server"]
    tandem("wait", job_id, "--timeout", "200")
    job = tandem.json("show", job_id)
    assert job["state"] == "SUCCEEDED"
    assert [attempt["reason"] for attempt in job["attempts"]] == ["driver_died", "done"]
    states = [event["state"] for event in job["events"] if event["state"] != "RUNNING"]
    assert states == ["QUEUED", "STARTING", "RETRYING", "STARTING", "SUCCEEDED"]


def test_a_job_brings_its_folder_and_its_variables_along(tandem: Tandem) -> None:
    folder = tandem.folder / "brought"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "a.md").write_text("# A\n\nThe port is 42.\n")
    (folder / "left-out.bin").write_text("x" * 1000)
    (folder / ".rayignore").write_text("*.bin\n")
    embedder = json.loads((tandem.folder / "first.yaml").read_text())["embedder"]
    spec = {"kind": "index", "name": "brought", "sources": ["brought/docs"], "embedder": embedder}
    (tandem.folder / "brought.yaml").write_text(json.dumps(spec))
    tandem.environment["A_SECRET_TOKEN"] = SECRET
    words = ("--working-dir", "brought", "--env", "PLAIN=yes", "--env", "A_SECRET_TOKEN")
    job_id = tandem("submit", "brought.yaml", *words).strip()

    found = until(lambda: tandem.driver(job_id)).environ()
    assert (found["PLAIN"], found["A_SECRET_TOKEN"]) == ("yes", SECRET)
    tandem("wait", job_id, "--timeout", "200")
    job = tandem.json("show", job_id)
    assert (job["state"], job["spec"]["sources"][0]["uri"]) == ("SUCCEEDED", "docs")
    (attempt,) = job["attempts"]
    # It ran in a copy of the folder, without what is left out.
    ran_in = Path(attempt["environment"]["dir"])
    assert sorted(path.name for path in ran_in.iterdir()) == [".rayignore", "docs"]
    assert attempt["environment"]["ray"]
    assert SECRET not in json.dumps(job)
    assert not list((tandem.storage / "secrets").iterdir())
    # The dashboard's table says whose job it is.
    cluster = Cluster.load(tandem.storage)
    details = HttpRayJobs(cluster).call("GET", f"/api/jobs/{attempt['submission_id']}").json()
    assert {"name": "brought", "kind": "index", "project": "default", "user": job["user"]}.items() <= details[
        "metadata"
    ].items()


def test_doctor_finds_all_well(tandem: Tandem) -> None:
    checks = {check["name"]: check for check in tandem.json("doctor")}
    looked = ("server", "tandem versions", "ray versions", "python versions", "database", "storage", "ray", "ports")
    assert {name: checks[name]["result"] for name in looked} == dict.fromkeys(looked, "ok")


def test_a_pipeline_goes_on_when_the_server_is_killed_in_the_middle(tandem: Tandem) -> None:
    write_llama(tandem.folder / "model", heads=1)
    rows = [{"question": f"What is the port of part {n}?", "answers": [f"{8000 + n}"]} for n in range(3)]
    (tandem.folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    compare = {
        "kind": "compare", "name": "which", "model": "model", "eval": "qa.jsonl", "collection": "${left.collection}",
        "max_tokens": 4, "bootstrap": 100, "engine": {"name": "transformers"},
    }  # fmt: skip
    steps = {
        "done": {"file": "first.yaml"},
        "left": {"file": "first.yaml", "spec": {"name": "left"}},
        "right": {"file": "first.yaml", "spec": {"name": "right"}},
        "which": {"needs": ["done", "right"], "spec": compare},
    }
    (tandem.folder / "pipeline.yaml").write_text(json.dumps({"kind": "pipeline", "name": "all", "steps": steps}))
    pipeline_id = tandem("submit", "pipeline.yaml").strip()

    def shown() -> dict[str, Any]:
        return {step["step"]: step for step in tandem.json("show", pipeline_id)["steps"]}

    until(lambda: {"left", "right"} <= {name for name, step in shown().items() if step["state"] == "RUNNING"})
    server = psutil.Process(Cluster.load(tandem.storage).pids["server"])
    server.kill()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    tandem("up", "cluster.yaml")
    tandem("wait", pipeline_id, "--timeout", "200")
    made = shown()
    assert {step["state"] for step in made.values()} == {"SUCCEEDED"}
    assert [name for name, step in made.items() if step["reused"]] == ["done"]
    assert len([job for job in tandem.json("ps", "--pipeline", pipeline_id) if job["name"] != "all"]) == 4
    which = tandem.json("show", made["which"]["job"])
    assert which["spec"]["collection"] == "left"
    assert which["created_at"] >= max(made[name]["ended_at"] for name in ("left", "right"))
    assert set(tandem.json("report", pipeline_id)["arms"]) == {"base", "rag"}
    assert "left | [done]" in tandem("logs", pipeline_id)
    again = tandem("submit", "pipeline.yaml", "--again").strip()
    tandem("wait", again, "--timeout", "20")
    assert {step["reused"] for step in tandem.json("show", again)["steps"]} == {True}


def test_down_leaves_nothing_behind_and_the_records_stay(tandem: Tandem) -> None:
    assert tandem.processes()
    temp_dir = Marks.of(tandem.storage).temp_dir
    assert temp_dir.is_dir()
    assert stat.S_IMODE(temp_dir.stat().st_mode) == 0o700  # Ray's own lie in it, open to everybody
    tandem("down")
    assert tandem.processes() == []
    assert not temp_dir.exists()
    kept = [path for path in tandem.storage.rglob("*") if path.is_file()]
    assert any(path.parent.name == "ray" for path in kept)
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]
    tandem("ps", status=3)
    tandem("up", "cluster.yaml")
    assert {job["state"] for job in tandem.json("ps")} == {"SUCCEEDED"}
    assert "[done]" in tandem("logs", "first")
    tandem("down")
    assert tandem.processes() == []
