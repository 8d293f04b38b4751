from __future__ import annotations

from typing import Any

import pytest
import ray.util.metrics

from tandem.training.gauges import Gauges
from tandem.training.metrics import shown

RECORD = {
    "step": 3,
    "loss": 1.5,
    "grad_norm": 0.2,
    "tokens_per_s": 40.0,
    "memory_bytes": [2 * 1024**3, 1024**3],
    "x": 1,
}


class FakeGauge:
    """Keeps what is set, by name and tags."""

    values: dict[tuple[str, ...], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self.name = name
        self.tag_keys = tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.values[(self.name, *tags.values())] = value


def test_a_steps_figures_become_gauges_of_the_job_and_memory_one_of_each_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values: dict[Any, float] = {}
    monkeypatch.setattr(FakeGauge, "values", values, raising=False)
    monkeypatch.setattr(ray.util.metrics, "Gauge", FakeGauge)
    gauges = Gauges("my-job")
    gauges.set(RECORD)
    assert values == {
        ("tandem_training_step", "my-job"): 3,
        ("tandem_training_loss", "my-job"): 1.5,
        ("tandem_training_gradient_norm", "my-job"): 0.2,
        ("tandem_training_tokens_per_second", "my-job"): 40.0,
        ("tandem_training_memory_bytes", "my-job", "0"): 2 * 1024**3,
        ("tandem_training_memory_bytes", "my-job", "1"): 1024**3,
    }


def test_what_was_said_last_is_said_again_until_there_is_something_new(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[Any, float] = {}
    monkeypatch.setattr(FakeGauge, "values", values, raising=False)
    monkeypatch.setattr(ray.util.metrics, "Gauge", FakeGauge)
    gauges = Gauges("my-job")
    gauges.keep()
    assert values == {}
    gauges.set({"step": 3, "loss": 1.5, "eval_loss": 1.25})
    gauges.set({"step": 4, "loss": 1.0})
    values.clear()
    gauges.keep()
    assert values == {
        ("tandem_training_step", "my-job"): 4,
        ("tandem_training_loss", "my-job"): 1.0,
        ("tandem_training_eval_loss", "my-job"): 1.25,
    }


def test_the_line_of_progress_has_the_memory_of_the_fullest_worker_and_no_list() -> None:
    assert shown(RECORD) == {"loss": 1.5, "grad_norm": 0.2, "tokens_per_s": 40.0, "memory_gib": 2.0}
