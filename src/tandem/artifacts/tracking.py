"""Runs in MLflow. One that can't be reached costs the log, never the job."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandem.artifacts.job import MLFLOW_RUN, JobContext
from tandem.config.cluster import without_password
from tandem.config.files import write_whole

_SQLITE = "sqlite:///"


def open_run(context: JobContext, experiment: str, tags: Mapping[str, str] | None = None) -> tuple[Any, str]:
    """Begin a run that is named after the job.

    Args:
        context: Whose MLflow, and which job.
        experiment: Made if it isn't there.
        tags: What to find the run by, beside the job's id.

    Returns:
        A client of this cluster's MLflow, and the run's id.
    """
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = context.cluster.mlflow_uri
    with _alone(uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            experiment_id = found.experiment_id
        else:
            # SQLite's default would be a folder below whatever directory the job runs in.
            root = (context.storage / "mlflow-artifacts").absolute().as_uri() if uri.startswith(_SQLITE) else None
            experiment_id = client.create_experiment(experiment, artifact_location=root)
    tags = {"tandem.job": context.id, "mlflow.runName": context.id, **(tags or {})}
    run_id = str(client.create_run(experiment_id, tags=tags).info.run_id)
    write_whole(context.dir / MLFLOW_RUN, json.dumps({"run_id": run_id, "experiment_id": str(experiment_id)}))
    return client, run_id


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One process at a time: MLflow makes an SQLite file's tables at its first use, and two that do break each other.

    Args:
        uri: MLflow's; a server sees to it itself.
    """
    if not uri.startswith(_SQLITE):
        yield
        return
    with Path(uri.removeprefix(_SQLITE) + ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tracked(context: JobContext, what: str, action: Callable[[], None]) -> bool:
    """Do something with MLflow; say in a line why it couldn't be done.

    Args:
        context: Whose MLflow.
        what: What it doesn't take then ("the metrics").
        action: Calls MLflow.

    Returns:
        Whether it was done.
    """
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        action()
    except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
        # A database of another version, a full disk, a server that is away: requests' errors are OSErrors.
        why = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"MLflow at {without_password(context.cluster.mlflow_uri)} doesn't take {what}: {why}", flush=True)
        return False
    return True
