"""A local cluster through the real command line: it survives what is killed in it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from tiny_models import write_embedder

from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.orchestrator.local import Marks, down
from tandem.orchestrator.processes import marked
from tandem.orchestrator.ray_jobs import HttpRayJobs

DEADLINE_S = 120.0
T = TypeVar("T")


class Tandem:
    """The command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = folder / "storage"
        # RAY_* of the session's other cluster must not lead this one astray.
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment = kept | {STORAGE_VARIABLE: str(self.storage)}
        self.command = [sys.executable, "-m", "tandem.cli.main"]

    def __call__(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def processes(self) -> list[psutil.Process]:
        marks = Marks.of(self.storage)
        return marked(marks.ray) + marked(marks.server)


def until(look: Callable[[], T]) -> T:
    """What a look finds as soon as it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it didn't come about in time"
        time.sleep(0.1)
    return found


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

    def driver() -> psutil.Process | None:
        lines = [(process, " ".join(process.cmdline())) for process in tandem.processes()]
        return next(
            (process for process, line in lines if f"tandem.runner {tandem.storage}/jobs/{job_id}" in line), None
        )

    until(driver).send_signal(signal.SIGKILL)
    until(lambda: tandem.json("show", job_id)["attempts"][0]["reason"])
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
    tandem.environment["A_SECRET_TOKEN"] = "only-for-the-job"
    words = ("--working-dir", "brought", "--env", "PLAIN=yes", "--env", "A_SECRET_TOKEN")
    job_id = tandem("submit", "brought.yaml", *words).strip()

    def environment() -> dict[str, str] | None:
        for process in tandem.processes():
            try:
                if f"jobs/{job_id}" in " ".join(process.cmdline()) and "tandem.runner" in process.cmdline():
                    return process.environ()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return None

    found = until(environment)
    assert (found["PLAIN"], found["A_SECRET_TOKEN"]) == ("yes", "only-for-the-job")
    tandem("wait", job_id, "--timeout", "200")
    job = tandem.json("show", job_id)
    assert (job["state"], job["spec"]["sources"][0]["uri"]) == ("SUCCEEDED", "docs")
    (attempt,) = job["attempts"]
    # It ran in a copy of the folder, without what is left out.
    ran_in = Path(attempt["environment"]["dir"])
    assert sorted(path.name for path in ran_in.iterdir()) == [".rayignore", "docs"]
    assert attempt["environment"]["ray"]
    assert "only-for-the-job" not in json.dumps(job)
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


def test_down_leaves_nothing_behind_and_the_records_stay(tandem: Tandem) -> None:
    assert tandem.processes()
    temp_dir = Marks.of(tandem.storage).temp_dir
    assert temp_dir.is_dir()
    tandem("down")
    assert tandem.processes() == []
    assert not temp_dir.exists()
    tandem("ps", status=3)
    tandem("up", "cluster.yaml")
    assert {job["state"] for job in tandem.json("ps")} == {"SUCCEEDED"}
    assert "[done]" in tandem("logs", "first")
    tandem("down")
    assert tandem.processes() == []
