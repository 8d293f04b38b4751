"""A training run in MLflow: logged by the driver alone, in batches."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.artifacts.tracking import open_run, tracked
from tandem.training.metrics import Record, shown, steps

EXPERIMENT = "tandem-finetune"
FLUSH_S = 120.0  # a call, and more so the first, takes time from training on the same cores
_BATCH = 1000  # metrics in one call, MLflow's limit
_FILES = ("spec.json", "curve.png", "evaluation.json", "confusion.png")
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]", re.ASCII)


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
        """Log what is new of the steps among all records, if the last time is long enough ago."""
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self._guarded(lambda: self._flush(steps(records)))

    def close(
        self, records: list[Record], *, status: str, artifacts: str | None = None, figures: dict[str, Any] | None = None
    ) -> None:
        """Log the rest and end the run.

        Args:
            records: All records of steps.
            status: MLflow's: FINISHED or FAILED.
            artifacts: A folder whose small files go with the run.
            figures: The job's; what was measured of a classifier at the end is logged with the last step.
        """

        def finish() -> None:
            self._flush(records)
            self._log_final(figures or {}, records)
            if artifacts is not None:
                for name in _FILES:
                    if (Path(artifacts) / name).exists():
                        self._client.log_artifact(self.run_id, f"{artifacts}/{name}")
            self._client.set_terminated(self.run_id, status)

        self._guarded(finish)

    def _log_final(self, figures: dict[str, Any], records: list[Record]) -> None:
        from mlflow.entities import Metric

        named: dict[str, Any] = {name: figures[name] for name in ("accuracy", "macro_f1") if name in figures}
        named |= {f"f1/{label}": value for label, value in figures.get("f1", {}).items()}
        for name in ("accuracy_ci95", "macro_f1_ci95"):
            if figures.get(name) is not None:
                named |= {f"{name}_low": figures[name][0], f"{name}_high": figures[name][1]}
        now, step = int(time.time() * 1000), int(records[-1]["step"]) if records else 0
        # MLflow takes letters, digits and a few marks in names; labels may hold anything.
        metrics = [Metric(_NOT_IN_NAMES.sub("_", name), float(value), now, step) for name, value in named.items()]
        for at in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[at : at + _BATCH])

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
