"""A finished comparison in MLflow: its figures as metrics, its files as artifacts, logged once from one place."""

from __future__ import annotations

from pathlib import Path

from tandem.artifacts.job import JobContext
from tandem.artifacts.tracking import open_run, tracked
from tandem.evaluation.schema import Report

EXPERIMENT = "tandem-compare"


def log_report(report: Report, folder: Path, context: JobContext) -> str | None:
    """Log a report.

    Args:
        report: The figures.
        folder: The files.
        context: Whose MLflow, and under which name.

    Returns:
        The id of the MLflow run; None where MLflow didn't take it.
    """
    run_ids = []

    def log() -> None:
        client, run_id = open_run(context, EXPERIMENT, {"tandem.winner": report.verdict.winner or ""})
        for name, arm in report.arms.items():
            for metric, value in arm.metrics.items():
                if value is not None:
                    client.log_metric(run_id, f"{name}.{metric}", value)
        client.log_artifacts(run_id, str(folder), "report")
        client.set_terminated(run_id)
        run_ids.append(run_id)

    tracked(context, "the report", log)
    return run_ids[0] if run_ids else None
