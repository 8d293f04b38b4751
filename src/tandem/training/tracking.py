"""A training run in MLflow: logged by the driver alone, in batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.artifacts.tracking import open_run, tracked
from tandem.training.metrics import Record, shown

EXPERIMENT = "tandem-finetune"
FLUSH_S = 120.0  # a call, and more so the first, takes time from training on the same cores
_BATCH = 1000  # metrics in one call, MLflow's limit


class Tracker:
    """Logs records of steps.

    An MLflow that can't be reached costs the log, never the training: it is said once, in a line.

    Args:
        context: Whose MLflow, and under which name.
        params: What the run is, as flat text.
    """

    def __init__(self, context: JobContext, params: dict[str, Any]) -> None:
        self._context = context
        self._params = params
        self._client: Any = None
        self._flushed_at = time.monotonic()
        self._logged = 0
        self._failed = False
        self.run_id: str | None = None

    def follow(self, records: list[Record]) -> None:
        """Log what is new, if the last time is long enough ago."""
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self._guarded(lambda: self._flush(records))

    def close(self, records: list[Record], *, status: str, artifacts: str | None = None) -> None:
        """Log the rest and end the run.

        Args:
            records: All records of steps.
            status: MLflow's: FINISHED or FAILED.
            artifacts: A folder whose small files go with the run.
        """

        def finish() -> None:
            self._flush(records)
            if artifacts is not None:
                for name in ("spec.json", "curve.png"):
                    self._client.log_artifact(self.run_id, f"{artifacts}/{name}")
            self._client.set_terminated(self.run_id, status)

        self._guarded(finish)

    def _guarded(self, action: Callable[[], None]) -> None:
        if not self._failed:
            self._failed = not tracked(self._context, "the metrics", action)

    def _flush(self, records: list[Record]) -> None:
        from mlflow.entities import Metric

        if self._client is None:
            self._open()
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, figure, int(record.get("time_ms", now)), int(record["step"]))
            for record in records[self._logged :]
            for name, figure in shown(record).items()
        ]
        for at in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[at : at + _BATCH])
        self._logged = len(records)
        self._flushed_at = time.monotonic()

    def _open(self) -> None:
        from mlflow.entities import Param

        client, self.run_id = open_run(self._context, EXPERIMENT)
        client.log_batch(self.run_id, params=[Param(key, str(value)) for key, value in self._params.items()])
        self._client = client
