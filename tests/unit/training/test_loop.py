"""A step on one worker, under an engine that keeps no gradient norm, as DeepSpeed's without ZeRO in fp32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed

from tandem.errors import DivergedError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.data.dataset import Examples
from tandem.training.guards import LossGuard
from tandem.training.loop import Worker, train_step
from tandem.training.loop_config import LoopConfig
from tandem.training.tasks import Generation

CLIP = 1e-3
SEQUENCES = [([5, 6, 7, 8, 9], [False, False, True, True, False]), ([10, 11, 12], [False, False, True])]


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class PlainEngine:
    """Clips and clears the gradients in its step."""

    device = torch.device("cpu")

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def get_lr(self) -> list[float]:
        return [0.1]

    def zero_optimization(self) -> bool:
        return False

    bfloat16_enabled = fp16_enabled = zero_optimization

    def get_global_grad_norm(self) -> None:
        return None

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)
        self.module.zero_grad()


def step_of(model: Any, model_path: Path, folder: Path) -> dict[str, Any]:
    schedule = {"batch_size": 2, "micro_batch_size": 2, "packing": False}
    data = {"train": "t.jsonl"}
    spec = FinetuneSpec.model_validate(
        {"kind": "finetune", "name": "t", "model": "m", "data": data, "schedule": schedule}
    )
    values: dict[str, Any] = dict.fromkeys(LoopConfig.__dataclass_fields__)
    values |= {"spec": spec, "pad_id": 0, "packing": False, "metrics": str(folder / "metrics.jsonl")}
    config = LoopConfig(**values | {"model": str(model_path), "train": str(folder / "train")})
    examples = Examples.pack(SEQUENCES)
    examples.save(folder / "train")
    values = dict.fromkeys(Worker.__dataclass_fields__)
    values |= {"task": Generation(packing=False), "rank": 0, "workers": 1, "engine": PlainEngine(model)}
    values |= {"head": model.get_output_embeddings(), "guard": LossGuard(config, writes=True)}
    meter = SimpleNamespace(figures=lambda *_: {})
    return train_step(Worker(**values | {"meter": meter}), config, examples, [0, 1], 0)


def test_the_norm_is_the_gradients_before_it_is_clipped(model: Any, tiny_model_path: Path, tmp_path: Path) -> None:
    record = step_of(model, tiny_model_path, tmp_path)
    ids, attention, mask = Examples.pack(SEQUENCES).collate([0, 1], pad_id=0)
    labels = ids.masked_fill(~mask, -100)
    model(input_ids=ids, attention_mask=attention, labels=labels).loss.backward()
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
    assert norm > CLIP
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_a_gradient_that_is_no_number_ends_the_run(model: Any, tiny_model_path: Path, tmp_path: Path) -> None:
    next(model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(DivergedError, match="the gradient norm is nan, though the loss"):
        step_of(model, tiny_model_path, tmp_path)
