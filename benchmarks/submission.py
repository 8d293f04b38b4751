"""What does the queue cost a job on its way, and what does a full queue cost the head?

The whole server in its own process, on SQLite, against Ray's own client; both give Ray the same entrypoint, which does
nothing. From submission to RUNNING each is asked every 20 ms, in turns. Then many jobs at once until the last has
ended: through the queue, and in a loop of plain submissions, which nothing holds back. Last, the memory of all of the
head's processes with jobs that wait: in the server's database, and as Ray keeps them, each with its supervisor.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.noop_server import SECONDS, noop
from benchmarks.report import Result, versions
from tandem.cli.client import Client
from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.orchestrator.local import Marks, answers, down, up
from tandem.orchestrator.processes import marked
from tandem.orchestrator.states import FINAL
from tandem.specs import ClusterSpec, IndexSpec

ROUNDS = int(os.environ.get("BENCH_SUBMISSION_ROUNDS", "20"))
JOBS = int(os.environ.get("BENCH_SUBMISSION_JOBS", "200"))
QUEUED = 1000
PLAIN_WAITING = 10
CPUS = 16
POLL_S = 0.02
DEADLINE_S = 1800.0
LONG = {SECONDS: "3000"}
_MB = 1e6


@dataclass
class Sides:
    """A cluster of which both sides submit to the same head."""

    cluster: Cluster
    client: Client
    plain: Any
    server: psutil.Process
    number: int = 0

    def fresh(self) -> int:
        self.number += 1
        return self.number

    def spec(self, *, workers: int = 1, env: dict[str, str] | None = None) -> dict[str, Any]:
        """A job of its own; it needs a CPU more than it has workers."""
        data = {"kind": "index", "name": f"job-{self.fresh()}", "sources": ["/nowhere"]}
        more = {"embedder": {"workers": workers}, "runtime": {"env": env or {}}}
        return IndexSpec.model_validate({**data, **more}).canonical()

    def submit_plain(self, env: dict[str, str] | None = None) -> str:
        folder = self.cluster.storage / "plain" / str(self.fresh())
        folder.mkdir(parents=True)
        made: str = self.plain.submit_job(
            entrypoint=noop(folder), runtime_env={"env_vars": {**self.cluster.ray_env(), **(env or {})}}
        )
        return made

    def status(self, submission_id: str) -> str:
        return str(self.plain.get_job_status(submission_id).value)

    def state(self, job_id: str) -> str:
        return str(self.client.job(job_id)["state"])


def run() -> list[Result]:
    """Measure all three on one cluster."""
    packages = versions("ray", "sqlalchemy", "fastapi")
    with _sides() as sides:
        for _ in range(2):
            _to_running(sides)
        waits = [_to_running(sides) for _ in range(ROUNDS)]
        rates = _throughput(sides)
        memory = _memory(sides)
    return [
        Result(
            "submission",
            "milliseconds from submission to RUNNING",
            {"rounds": ROUNDS, "poll_ms": 1000 * POLL_S},
            packages,
            [_spread(name, [each[name] for each in waits], [each["plain"] for each in waits]) for name in waits[0]],
        ),
        Result("throughput", "no-op jobs per minute, until the last has ended", {"jobs": JOBS}, packages, rates),
        Result("queued-memory", "MB that waiting jobs add", {"queued": QUEUED}, packages, memory),
    ]


def _to_running(sides: Sides) -> dict[str, float]:
    """Milliseconds by side; which goes first alternates."""
    made: dict[str, Callable[[], tuple[str, Callable[[str], str]]]] = {
        "plain": lambda: (sides.submit_plain({SECONDS: "1"}), sides.status),
        "tandem": lambda: (sides.client.submit(sides.spec(env={SECONDS: "1"}))["id"], sides.state),
    }
    names = list(made) if sides.number % 4 < 2 else list(made)[::-1]
    found = {}
    for name in names:
        began = time.perf_counter()
        identifier, look = made[name]()
        _reaches(look, identifier, {"RUNNING", *FINAL})
        found[name] = 1000 * (time.perf_counter() - began)
        _reaches(look, identifier, FINAL)
    return {name: found[name] for name in made}


def _throughput(sides: Sides) -> list[dict[str, Any]]:
    def queue() -> None:
        for _ in range(JOBS):
            sides.client.submit(sides.spec())
        _until(lambda: all(state in FINAL for state in sides.client.status()["jobs"]))

    def plain() -> None:
        ids = [sides.submit_plain() for _ in range(JOBS)]
        _until(lambda: all(sides.status(each) in FINAL for each in ids))

    minutes = {}
    for name, action in {"plain loop": plain, "tandem": queue}.items():
        began = time.perf_counter()
        action()
        minutes[name] = (time.perf_counter() - began) / 60
    base = minutes["plain loop"]
    return [{"contender": name, "jobs/min": JOBS / each, "÷ plain": base / each} for name, each in minutes.items()]


def _memory(sides: Sides) -> list[dict[str, Any]]:
    # One that holds all of the cluster: the others wait.
    holder = sides.client.submit(sides.spec(workers=CPUS - 1, env=LONG))["id"]
    _until(lambda: sides.state(holder) == "RUNNING")
    head, server = _head(sides), sides.server.memory_info().rss
    for _ in range(QUEUED):
        sides.client.submit(sides.spec(workers=CPUS - 1))
    time.sleep(5)
    rows = [
        {
            "waiting": f"{QUEUED} in tandem's queue",
            "head, MB": (_head(sides) - head) / _MB,
            "server, MB": (sides.server.memory_info().rss - server) / _MB,
        }
    ]
    head = _head(sides)
    ids = [sides.submit_plain(LONG) for _ in range(PLAIN_WAITING)]
    _until(lambda: all(sides.status(each) == "RUNNING" for each in ids))
    rows.append(
        {"waiting": f"{PLAIN_WAITING} plain Ray jobs", "head, MB": (_head(sides) - head) / _MB, "server, MB": 0.0}
    )
    return rows


def _head(sides: Sides) -> int:
    """Bytes of all of the head's processes, supervisors and their entrypoints among them."""
    total = 0
    for process in marked(Marks.of(sides.cluster.storage).ray):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _spread(name: str, values: list[float], base: list[float]) -> dict[str, Any]:
    p50, p95 = statistics.median(values), statistics.quantiles(values, n=20)[-1]
    return {"contender": name, "p50": p50, "p95": p95, "÷ plain at p50": p50 / statistics.median(base)}


def _reaches(look: Callable[[str], str], identifier: str, states: Collection[str]) -> None:
    _until(lambda: look(identifier) in states)


def _until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError("the jobs didn't come about in time")
        time.sleep(POLL_S)


@contextmanager
def _sides() -> Iterator[Sides]:
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        storage = Path(scratch) / "storage"
        os.environ[STORAGE_VARIABLE] = str(storage)
        spec = ClusterSpec.model_validate(
            {"ports": dict.fromkeys(("gcs", "dashboard", "server", "endpoint"), 0), "cpus": CPUS}
        )
        cluster = up(spec).cluster
        try:
            real = psutil.Process(cluster.pids["server"])
            real.terminate()
            psutil.wait_procs([real], timeout=30)
            command = [sys.executable, "-m", "benchmarks.noop_server", str(storage / "server.json")]
            with (storage / "noop.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
                try:
                    _until(lambda: answers(cluster.server_url))
                    os.environ.update(cluster.ray_env())
                    from ray.job_submission import JobSubmissionClient

                    plain = JobSubmissionClient(cluster.dashboard_url)
                    yield Sides(cluster, Client(cluster), plain, psutil.Process(server.pid))
                finally:
                    server.terminate()
        finally:
            down(storage)
            del os.environ[STORAGE_VARIABLE]
