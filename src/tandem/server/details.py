"""All that is on record of a job, and where to look for more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tandem.config.cluster import Cluster, without_password
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.records import Records
from tandem.orchestrator.resources import Amounts


def details(job: Job, records: Records, orchestrator: Orchestrator) -> dict[str, Any]:
    """The fields that a `JobDetails` has beside those of a `JobView`."""
    files = orchestrator.files(job.id)
    attempts = records.attempts(job.id)
    room = orchestrator.room
    needs: Amounts = {}
    holds: Amounts = {}
    # What a pipeline needs and holds are its steps' jobs.
    if job.kind != "pipeline":
        asked = job.demands[room.gpus if room else False]
        needs, holds = asked.needs, room.held_by(asked) if room else asked.needs
    return {
        "spec": job.spec,
        "origin": dict(job.origin),
        "events": records.events(job.id),
        "attempts": [
            {
                **attempt,
                "environment": files.environment(attempt["number"]),
                "dashboard": dashboard_link(orchestrator.cluster, attempt["submission_id"]),
            }
            for attempt in attempts
        ],
        "needs": dict(needs),
        "used": hours(attempts, holds, time.time()),
        "steps": orchestrator.pipelines.describe(job, orchestrator.waits) if job.kind == "pipeline" else None,
        "mlflow": mlflow_link(orchestrator.cluster, files),
    }


def hours(attempts: Sequence[Mapping[str, Any]], holds: Mapping[str, float], now: float) -> dict[str, float]:
    """What attempts held, in hours of each resource.

    Args:
        attempts: With `submitted_at` and `ended_at`, in seconds.
        holds: What each of them held.
        now: Until then one holds it that hasn't ended; seconds since the epoch.
    """
    seconds = sum(max(0.0, (each["ended_at"] or now) - each["submitted_at"]) for each in attempts)
    return {name: amount * seconds / 3600 for name, amount in holds.items()} if attempts else {}


def dashboard_link(cluster: Cluster, submission_id: str) -> str:
    """An attempt's page on Ray's dashboard."""
    return f"{cluster.dashboard_url}/#/jobs/{quote(submission_id)}"


def mlflow_link(cluster: Cluster, files: JobFiles) -> str | None:
    """A job's run on MLflow's page, or the command that shows it; None where it has none."""
    run = files.mlflow_run()
    if run is None:
        return None
    page = f"#/experiments/{run['experiment_id']}/runs/{run['run_id']}"
    if cluster.mlflow_uri.startswith(("http://", "https://")):
        return f"{without_password(cluster.mlflow_uri).rstrip('/')}/{page}"
    return f"`mlflow ui --backend-store-uri {without_password(cluster.mlflow_uri)}`, then http://127.0.0.1:5000/{page}"
