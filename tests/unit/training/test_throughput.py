from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tandem.training.throughput import ModelFlops, peak_flops, whole_size


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce RTX 2080", None),
        ("", None),
    ],
)
def test_the_peak_is_stated_where_it_is_known(device: str, peak: float | None) -> None:
    assert peak_flops(device, half=True) == peak
    assert peak_flops(device, half=False) is None


def measured_flops(model: Any, length: int, *, keep: int) -> int:
    """What PyTorch itself counts of a forward and backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.randint(0, 100, (1, length))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        logits.float().logsumexp(-1).sum().backward()
    return int(counter.get_total_flops())


def test_flops_are_those_that_pytorch_counts(model: Any) -> None:
    # Eager attention, since the counter can't see inside fused kernels on processors.
    model.set_attn_implementation("eager")
    model.get_input_embeddings().requires_grad_(True)
    flops = ModelFlops.of(model, model.get_output_embeddings())
    assert flops.frozen == 0
    assert flops.step([128], 16) == pytest.approx(measured_flops(model, 128, keep=16), rel=0.03)


def test_frozen_weights_cost_no_gradients_of_their_own(model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model.set_attn_implementation("eager")
    full = ModelFlops.of(model, model.get_output_embeddings()).step([128], 16)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    flops = ModelFlops.of(adapted, adapted.get_output_embeddings())
    assert 0 < flops.trained < flops.frozen
    assert flops.step([128], 16) < full
    # The first layer's input needs no gradient, which the count leaves out of account.
    assert flops.step([128], 16) == pytest.approx(measured_flops(adapted, 128, keep=16), rel=0.1)


@pytest.mark.parametrize(
    ("parameter", "size"),
    [
        (torch.zeros(3, 4), 12),
        (SimpleNamespace(ds_numel=40, numel=lambda: 0), 40),  # ZeRO 3: a share of it, which may be empty
        (SimpleNamespace(quant_state=object(), numel=lambda: 6, element_size=lambda: 1), 12),  # two in a byte
        (SimpleNamespace(quant_state=object(), numel=lambda: 3, element_size=lambda: 2), 12),
        (SimpleNamespace(quant_state=None, numel=lambda: 12), 12),  # not packed yet
    ],
)
def test_a_parameter_is_as_large_as_the_model_has_it(parameter: Any, size: int) -> None:
    assert whole_size(parameter) == size
