"""How long is a turn of the control loop with many jobs waiting, and how much of it is the decision?

A whole orchestrator on SQLite with a Ray that answers at once: what Ray takes isn't ours to measure here, and it is
asked once for its machines, however many jobs wait. The cluster is full, and half of the jobs belong to a project with
a quota: every job in line is looked at, and told why it waits.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clusters import NOWHERE, cluster_in
from benchmarks.report import Result, seconds, versions
from tandem.orchestrator.controller import Policy, decide
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.fake_ray import FakeRayJobs
from tandem.orchestrator.records import Records
from tandem.orchestrator.resources import Room
from tandem.orchestrator.scheduler import Rules
from tandem.orchestrator.states import State
from tandem.specs import FinetuneSpec

LENGTHS = (100, 1000)
TURNS = 30
WARM_UP = 3
RULES = Rules({"nlp": {"CPU": 4.0}}, {}, passing_s=600.0, grace_s=300.0, shared_cpus=None)
POLICY = Policy(retry=True, max_attempts=5)


def run() -> Result:
    """Queue, turn, measure."""
    return Result(
        "queue",
        "milliseconds of a scheduling turn with so many jobs waiting",
        {"turns": TURNS, "database": "SQLite"},
        versions("sqlalchemy", "pydantic"),
        [_measure(length) for length in LENGTHS],
    )


def spec(number: int) -> dict[str, Any]:
    """A fine-tune of the usual size, every second one of a project with a quota."""
    queue = {"priority": number % 5, "project": ("nlp", "default")[number % 2]}
    data = {"kind": "finetune", "name": f"job-{number}", "model": "/model", "data": {"train": "/rows.jsonl"}}
    return FinetuneSpec.model_validate({**data, "workers": 1 + number % 2, "queue": queue}).canonical()


def _measure(length: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        cluster = cluster_in(Path(scratch) / "storage", NOWHERE)
        records = Records(cluster.database_url)
        orchestrator = Orchestrator(records, FakeRayJobs(nodes=[{"CPU": 8.0}]), cluster, POLICY, RULES)
        for number in range(length + 8):
            made = spec(number)
            records.submit("finetune", made["name"], made, judged=True)
        gc.freeze()  # as the server does
        for _ in range(WARM_UP):
            orchestrator.step()
        open_jobs = records.find(states=[State.QUEUED, State.STARTING, State.RUNNING, State.RETRYING])
        waiting = sum(job.state is State.QUEUED for job in open_jobs)
        turns = [1000 * seconds(orchestrator.step) for _ in range(TURNS)]
        room = Room(({"CPU": 8.0},), {}, {}, {}, since=0.0)
        decisions = [1000 * seconds(lambda: decide(open_jobs, {}, room, POLICY, RULES, now=0.0)) for _ in range(TURNS)]
        records.close()
    return {
        "waiting": waiting,
        "turn p50, ms": statistics.median(turns),
        "turn p95, ms": statistics.quantiles(turns, n=20)[-1],
        "decision p50, ms": statistics.median(decisions),
    }
