"""ZeRO 3 on two gloo workers: the model is sharded from the start, and is the model that it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from deepspeed_workers import WORKERS, finetune_spec, measure
from tiny_models import write_llama


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model") / "llama")


def logits_of(model: Any) -> Any:
    import torch

    ids = torch.arange(2 * 16).reshape(2, 16) + 20
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("method", ["full", "lora"])
def test_no_worker_ever_holds_the_whole_model(model_path: Path, tmp_path: Path, method: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    spec = finetune_spec(model_path, method=method, deepspeed=3, gradient_checkpointing=method == "full")
    facts = measure(spec, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(model_path)
    whole = sum(parameter.numel() for parameter in plain.parameters())
    for worker in facts:
        loaded = worker["loaded"]
        assert loaded["whole"] == whole
        assert loaded["held"] == pytest.approx(whole / WORKERS, rel=0.01)  # padded to equal shares
        assert loaded["present"] == 0
        assert worker["grad_norm"] > 0
    engines = torch.load(tmp_path / "logits.pt")
    assert (engines["before"] - logits_of(plain)).abs().max() < 1e-5
    # What was saved after a step is whole, too.
    saved = (
        AutoModelForCausalLM.from_pretrained(tmp_path)
        if method == "full"
        else PeftModel.from_pretrained(plain, str(tmp_path))
    )
    assert (engines["after"] - engines["before"]).abs().max() > 1e-3
    assert (engines["after"] - logits_of(saved)).abs().max() < 1e-4
