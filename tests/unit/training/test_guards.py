from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import DivergedError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.data.dataset import IDS, Examples
from tandem.training.guards import OFFENDING_BATCH, WINDOW, LossGuard, fault
from tandem.training.loop_config import LoopConfig


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_a_fault_at_once(loss: float) -> None:
    assert fault([loss], limit=None) == f"the loss is {loss}"


def test_a_loss_that_grows_beyond_the_limit_on_average_is_a_fault() -> None:
    start = [2.0] * WINDOW
    assert fault([*start, *[5.9] * WINDOW], limit=3.0) is None
    assert (
        fault([*start, *[6.1] * WINDOW], limit=3.0)
        == "the loss diverges: 6.1 on average over the last 10 steps, 2 over the first"
    )
    assert fault([*start, *[1e9] * WINDOW], limit=None) is None


def test_a_small_loss_may_grow_many_times_and_still_be_small() -> None:
    assert fault([*[0.01] * WINDOW, *[0.5] * WINDOW], limit=3.0) is None
    assert fault([*[0.01] * WINDOW, *[1.5] * WINDOW], limit=3.0) is not None


def test_one_hard_batch_and_a_short_run_are_no_divergence() -> None:
    assert fault([*[2.0] * WINDOW, *[2.0] * (WINDOW - 1), 20.0], limit=3.0) is None
    assert fault([1.0, 50.0, 100.0], limit=3.0) is None


@pytest.fixture
def config(tmp_path: Path, tiny_model_path: Path, tokenizer: Any) -> LoopConfig:
    texts = ("The fox", "The lazy dog", "the default")
    Examples.pack([(ids, [False] + [True] * (len(ids) - 1)) for ids in tokenizer(list(texts))["input_ids"]]).save(
        tmp_path / "train"
    )
    (tmp_path / "train" / IDS).write_text('"r0"\n"r1"\n"r2"\n')
    spec = FinetuneSpec.model_validate({"kind": "finetune", "name": "t", "model": "m", "data": {"train": "t.jsonl"}})
    values: dict[str, Any] = dict.fromkeys(LoopConfig.__dataclass_fields__)
    values |= {
        "spec": spec,
        "model": str(tiny_model_path),
        "train": str(tmp_path / "train"),
        "pad_id": 0,
        "metrics": str(tmp_path / "metrics.jsonl"),
    }
    return LoopConfig(**values)


def stopped(config: LoopConfig, losses: list[float], *, writes: bool = True) -> DivergedError:
    with pytest.raises(DivergedError) as caught:
        LossGuard(config, writes=writes).check_loss(
            math.nan, Examples.load(config.train), [2, 0, 1], 11, lambda: losses
        )
    return caught.value


def test_the_batch_is_saved_with_its_rows_and_the_error_names_file_and_row(config: LoopConfig, tokenizer: Any) -> None:
    error = stopped(config, [1.5, math.nan, 2.5])
    path = Path(config.metrics).with_name(OFFENDING_BATCH)
    assert error.where == str(path)
    assert error.what == "the loss is nan at step 12: because of 1 of 3 rows (r0)"
    saved = json.loads(path.read_text())
    assert (saved["step"], saved["why"]) == (12, "the loss is nan")
    assert [(row["id"], row["loss"], row["text"]) for row in saved["rows"]] == [
        ("r0", "nan", "The fox"),
        ("r1", 2.5, "The lazy dog"),
        ("r2", 1.5, "the default"),
    ]
    assert saved["rows"][0]["input_ids"] == tokenizer("The fox")["input_ids"]


def test_held_out_rows_whose_loss_is_no_number_end_the_run_and_are_named(config: LoopConfig) -> None:
    held_out = Path(config.train).with_name("eval")
    Path(config.train).rename(held_out)
    guard = LossGuard(replace(config, eval=str(held_out)), writes=True)
    data = Examples.load(held_out)
    guard.check_evaluation(2.5, data, 11, list)
    with pytest.raises(DivergedError) as caught:
        guard.check_evaluation(math.inf, data, 11, lambda: [1.5, math.inf, 2.5])
    assert caught.value.what == "the loss on the held-out rows is inf at step 12: because of 1 of 3 rows (r1)"
    saved = json.loads(Path(config.metrics).with_name(OFFENDING_BATCH).read_text())
    assert [(row["id"], row["loss"]) for row in saved["rows"]] == [("r1", "inf"), ("r2", 2.5), ("r0", 1.5)]


def test_when_every_row_is_broken_the_weights_are_to_blame(config: LoopConfig) -> None:
    assert "so the weights were broken before" in stopped(config, [math.nan] * 3).what


def test_one_worker_writes_and_all_raise_the_same(config: LoopConfig) -> None:
    other = stopped(config, [1.0, math.nan, 1.0], writes=False)
    assert not Path(config.metrics).with_name(OFFENDING_BATCH).exists()
    assert str(stopped(config, [1.0, math.nan, 1.0])) == str(other)


def test_a_gradient_that_is_no_number_stops_unless_a_loss_scaler_skips_it(config: LoopConfig) -> None:
    guard, data = LossGuard(config, writes=True), Examples.load(config.train)
    guard.check_loss(1.0, data, [0], 0, list)
    guard.check_gradient(math.inf, data, [0], 0, scaled=True)
    with pytest.raises(DivergedError, match="the gradient norm is inf, though the loss"):
        guard.check_gradient(math.inf, data, [0], 0, scaled=False)
    saved = json.loads(Path(config.metrics).with_name(OFFENDING_BATCH).read_text())
    assert saved["rows"][0]["loss"] is None


def test_a_resumed_run_remembers_how_it_began(config: LoopConfig) -> None:
    spec = config.spec.model_copy(update={"schedule": config.spec.schedule.model_copy(update={"max_loss_growth": 2.0})})
    guard = LossGuard(replace(config, spec=spec), writes=True)
    records = [{"step": step, "loss": 1.0 if step <= WINDOW else 2.5} for step in range(1, 2 * WINDOW + 5)]
    guard.resume(records, 2 * WINDOW - 1)
    with pytest.raises(DivergedError, match="diverges"):
        guard.check_loss(2.5, Examples.load(config.train), [0], 2 * WINDOW - 1, lambda: [2.5])
