"""Jobs that begin together, on a cluster where nothing was ever logged."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

from stand_ins.world import make_cluster

from tandem.artifacts.job import JobContext
from tandem.artifacts.tracking import open_run

JOBS = 3
DEADLINE_S = 120


def begin(storage: Path, name: str, together: Barrier) -> None:
    import mlflow  # noqa: F401 - takes longer than making its tables

    folder = storage / name
    folder.mkdir()
    together.wait(DEADLINE_S)
    open_run(JobContext(name, name, folder, storage, make_cluster(storage)), "together")


def test_jobs_that_begin_together_all_have_their_run(tmp_path: Path) -> None:
    import mlflow

    # No forks: this process has Ray's threads, whose locks a child would inherit as they are.
    processes = multiprocessing.get_context("spawn")
    together = processes.Barrier(JOBS)
    jobs = [processes.Process(target=begin, args=(tmp_path, f"job-{number}", together)) for number in range(JOBS)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(DEADLINE_S)
    assert [job.exitcode for job in jobs] == [0] * JOBS
    client = mlflow.MlflowClient(tracking_uri=make_cluster(tmp_path).mlflow_uri)
    experiment = client.get_experiment_by_name("together")
    assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {"job-0", "job-1", "job-2"}
