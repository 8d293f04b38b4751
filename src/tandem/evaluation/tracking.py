"""A finished comparison in MLflow: its figures as metrics, its files as artifacts, logged once from one place."""

from __future__ import annotations

from pathlib import Path

from tandem.artifacts.job import JobContext
from tandem.evaluation.schema import Report

EXPERIMENT = "tandem-compare"


def log_report(report: Report, folder: Path, context: JobContext) -> str | None:
    """Log a report. An MLflow that can't be reached costs the log, never the report: it is said in a line.

    Args:
        report: The figures.
        folder: The files.
        context: Whose MLflow, and under which name.

    Returns:
        The id of the MLflow run; None where MLflow didn't take it.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    uri = context.cluster.mlflow_uri
    client = mlflow.MlflowClient(tracking_uri=uri)
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            # SQLite's default would be a folder below whatever directory the job runs in.
            root = (context.storage / "mlflow-artifacts").absolute().as_uri() if uri.startswith("sqlite") else None
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=root)
        else:
            experiment_id = experiment.experiment_id
        tags = {"tandem.job": context.id, "tandem.winner": report.verdict.winner or "", "mlflow.runName": context.id}
        run_id = str(client.create_run(experiment_id, tags=tags).info.run_id)
        for name, arm in report.arms.items():
            for metric, value in arm.metrics.items():
                if value is not None:
                    client.log_metric(run_id, f"{name}.{metric}", value)
        client.log_artifacts(run_id, str(folder), "report")
        client.set_terminated(run_id)
    except MlflowException as error:
        print(f"MLflow at {uri} doesn't take the report: {str(error).splitlines()[0]}", flush=True)
        return None
    return run_id
