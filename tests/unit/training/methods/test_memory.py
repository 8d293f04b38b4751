"""The estimate is DeepSpeed's where DeepSpeed has one, and moves the way that each setting moves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import ModelError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.methods.memory import MAX_LIVE, PREFETCH, Estimate, ModelShape, Settings, activations, estimate
from tandem.training.methods.model_shape import read_shape

BILLION = 1_000_000_000
SHAPE = ModelShape(
    parameters=7 * BILLION, adapter=40_000_000, quantizable=6 * BILLION, largest_layer=130_000_000, layers=32,
    hidden=4096, queries=4096, keys=1024, feed_forward=14336, gated=True, outputs=128_000,
)  # fmt: skip
SETTINGS = Settings("full", 2, "bf16", workers=8, micro_batch_size=1, max_length=2048, fused=True)


def states(found: Estimate) -> int:
    return found.weights + found.gradients + found.optimizer + found.step


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_zero_2_is_deepspeeds_own_estimate(workers: int) -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs as deepspeeds

    _, theirs = deepspeeds(SHAPE.parameters, num_gpus_per_node=workers, cpu_offload=False)
    assert states(estimate(SHAPE, replace(SETTINGS, workers=workers))) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("workers", [2, 8, 64])
def test_zero_3_is_deepspeeds_own_estimate_with_what_it_keeps_gathered(workers: int) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs as deepspeeds

    _, theirs, layer = deepspeeds(
        SHAPE.parameters, SHAPE.largest_layer, num_gpus_per_node=workers, cpu_offload=False, cpu_offload_params=False
    )
    ours = states(estimate(SHAPE, replace(SETTINGS, stage=3, workers=workers)))
    assert ours == pytest.approx(theirs - layer + 2 * (MAX_LIVE + PREFETCH), rel=1e-6)


def test_activations_are_the_papers_for_gpt() -> None:
    gpt = replace(SHAPE, queries=4096, keys=4096, feed_forward=4 * 4096, gated=False)
    per_token_and_layer = activations(gpt, SETTINGS) / (2048 * 32 * 4096)
    assert per_token_and_layer == 32  # of 34: two are masks of dropout, which fine-tuning leaves out
    assert activations(gpt, replace(SETTINGS, gradient_checkpointing=True)) < activations(gpt, SETTINGS) / 10


@pytest.mark.parametrize("method", ["full", "lora"])
def test_each_stage_needs_less(method: str) -> None:
    small = replace(SHAPE, parameters=20 * BILLION)
    needs = [estimate(small, replace(SETTINGS, method=method, stage=stage)).total for stage in (0, 1, 2, 3)]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == 4


def test_an_adapter_needs_little_beside_its_base_and_four_bits_a_quarter_of_that() -> None:
    full, lora, qlora = (estimate(SHAPE, replace(SETTINGS, method=method)) for method in ("full", "lora", "qlora"))
    assert lora.optimizer + lora.gradients < full.optimizer / 50
    assert lora.weights == pytest.approx(2 * SHAPE.parameters, rel=0.01)
    assert qlora.weights == pytest.approx(0.516 * 6 * BILLION + 2 * BILLION, rel=0.05)


def test_a_step_that_is_not_fused_needs_its_temporaries_but_not_beside_activations() -> None:
    fused, plain = (estimate(SHAPE, replace(SETTINGS, fused=fused)) for fused in (True, False))
    assert plain.step - fused.step == 8 * SHAPE.parameters // 8
    assert plain.total == fused.total  # activations and logits are more, and gone by then
    fused, plain = (
        estimate(SHAPE, replace(SETTINGS, fused=fused, gradient_checkpointing=True)) for fused in (True, False)
    )
    assert plain.total > fused.total


def test_what_is_offloaded_is_elsewhere() -> None:
    here = estimate(SHAPE, replace(SETTINGS, stage=3))
    there = estimate(SHAPE, replace(SETTINGS, stage=3, offload_optimizer="cpu", offload_param="nvme"))
    assert there.optimizer == there.step == 0
    assert there.host == pytest.approx((here.optimizer + here.step) * 1.5, rel=1e-6)
    assert there.disk == 2 * SHAPE.parameters // 8
    assert there.total < here.total


def spec(**fields: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate({"kind": "finetune", "name": "t", "model": "m", "data": {"train": "t"}} | fields)


def test_the_shape_is_read_without_weights(tiny_model_path: Path, tmp_path: Path, model: Any) -> None:
    config = tmp_path / "config.json"
    config.write_text((tiny_model_path / "config.json").read_text())
    shape = read_shape(config, spec(method="full"))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.adapter, shape.layers, shape.hidden, shape.keys, shape.gated) == (0, 2, 64, 64, True)
    linear = 2 * (4 * 64 * 64 + 3 * 64 * 128)  # attention and feed-forward layers: neither embeddings nor head
    assert shape.quantizable == linear
    adapted = read_shape(config, spec(lora={"r": 4}))
    assert adapted.adapter == 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "mistral"])
def test_the_families_are_known(tmp_path: Path, kind: str) -> None:
    from transformers import AutoConfig

    names = {"gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2}}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    AutoConfig.for_model(kind, vocab_size=300, **names.get(kind, sizes)).save_pretrained(tmp_path)
    shape = read_shape(tmp_path / "config.json", spec())
    assert (shape.layers, shape.hidden, shape.queries, shape.outputs) == (2, 64, 64, 300)
    assert shape.gated == (kind != "gpt2")
    assert shape.adapter > 0


def test_a_model_that_nobody_knows_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "none-such"}')
    with pytest.raises(ModelError, match="its shape can't be read"):
        read_shape(tmp_path / "config.json", spec())
