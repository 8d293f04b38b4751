"""A training run in Ray's metrics, and so in Prometheus: gauges of its last step, by job."""

from __future__ import annotations

from typing import Any

from tandem.training.metrics import Record

_STEP = {
    "loss": ("tandem_training_loss", "Loss of the last step, nats per loss-carrying token"),
    "eval_loss": ("tandem_training_eval_loss", "Loss on the held-out rows, nats per loss-carrying token"),
    "learning_rate": ("tandem_training_learning_rate", "Learning rate of the last step"),
    "grad_norm": ("tandem_training_gradient_norm", "Norm of the gradient before clipping"),
    "tokens_per_s": ("tandem_training_tokens_per_second", "Tokens of the data per second, padding not counted"),
    "step_s": ("tandem_training_step_seconds", "Duration of the last step"),
    "mfu": ("tandem_training_model_flops_utilization", "Model FLOPs over the devices' peak, 0 to 1"),
    "step": ("tandem_training_step", "Optimizer steps done"),
}
_MEMORY = "tandem_training_memory_bytes"


class Gauges:
    """Sets gauges from records of steps; needs a process that is connected to Ray.

    Args:
        job: The job's name, which becomes the tag `job_name`.
    """

    def __init__(self, job: str) -> None:
        from ray.util.metrics import Gauge

        self._gauges: dict[str, Any] = {
            key: Gauge(name, description, tag_keys=("job_name",)) for key, (name, description) in _STEP.items()
        }
        self._memory = Gauge(
            _MEMORY,
            "Memory of a worker: the peak of its GPU's, or its resident memory",
            tag_keys=("job_name", "worker"),
        )
        self._job = job
        self._record: Record = {}

    def set(self, record: Record) -> None:
        """Take over what a step's record has."""
        self._record = {**self._record, **record}
        self.keep()

    def keep(self) -> None:
        """Say again what was said last: Ray drops a gauge that nobody has set for 20 s, and a step may take longer."""
        record = self._record
        for key, gauge in self._gauges.items():
            if key in record:
                gauge.set(float(record[key]), tags={"job_name": self._job})
        for worker, held in enumerate(record.get("memory_bytes", ())):
            self._memory.set(float(held), tags={"job_name": self._job, "worker": str(worker)})
