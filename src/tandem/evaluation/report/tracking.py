"""A finished comparison in MLflow: figures as metrics, the verdict as tags, files as artifacts; logged once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tandem.artifacts.job import JobContext
from tandem.artifacts.tracking import open_run, tracked
from tandem.evaluation.report.text import verdict_sentence
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
        from mlflow.entities import Metric

        client, run_id = open_run(context, EXPERIMENT, tags(report))
        now = int(1000 * time.time())
        client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics(report)])
        client.log_artifacts(run_id, str(folder), "report")
        client.set_terminated(run_id)
        run_ids.append(run_id)

    tracked(context, "the report", log)
    return run_ids[0] if run_ids else None


def tags(report: Report) -> dict[str, str]:
    """The verdict, and by what comparisons of the same questions are found; what there isn't is empty."""
    verdict = report.verdict
    return {
        "tandem.verdict": verdict.kind,
        "tandem.winner": verdict.winner or "",
        "tandem.choose": verdict.choose or "",
        "tandem.tied": ", ".join(verdict.tied),
        "tandem.metric": verdict.metric,
        "tandem.split_sha256": report.dataset.split_sha256,
        "tandem.spec_sha256": report.lineage["spec_sha256"],
        "mlflow.note.content": verdict_sentence(report.model_dump(mode="json", by_alias=True)),
    }


def metrics(report: Report) -> Iterator[tuple[str, float]]:
    """``ARM.FIGURE`` and its value, of every arm: measures, latency, costs and failures; those that are known."""
    yield "questions", float(report.dataset.n)
    for name, arm in report.arms.items():
        parts = {"latency_ms": arm.latency_ms, "cost": arm.cost}
        found = {f"{key}.{field}": value for key, part in parts.items() for field, value in part}
        for figure, value in {**arm.metrics, **found, "failures": arm.failures}.items():
            if value is not None:
                yield f"{name}.{figure}", float(value)
