"""Packed rows on a GPU: no document sees its neighbours, in the kernel for sequences of several lengths."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tiny_models import FAMILIES

from tandem.training.data.dataset import Examples, PackedExamples
from tandem.training.data.packing import VARLEN, attend_per_document, documents
from tandem.training.tasks import Generation

CONFIGS = FAMILIES | {"llama": FAMILIES["qwen2"], "phi3": FAMILIES["qwen2"], "smollm3": FAMILIES["qwen2"]}
LENGTHS = [5, 17, 1, 9, 40]


def tiny(family: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **CONFIGS[family])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").cuda().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # far from the usual start, at which attention hardly matters
    return model


def rows() -> Examples:
    import torch

    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 512, (length,), generator=generator).tolist() for length in LENGTHS]
    return Examples.pack([(row, [False] + [n % 3 > 0 for n in range(len(row) - 1)]) for row in ids])


def logits_alone(model: Any, examples: Examples) -> Any:
    import torch

    alone = [PackedExamples(examples).collate([index])[0].cuda() for index in range(len(examples))]
    with torch.no_grad():
        return torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in alone]).float()


def packed_logits(model: Any, examples: Examples) -> Any:
    import torch

    ids, _, positions, bounds = (tensor.cuda() for tensor in PackedExamples(examples).collate(range(len(examples))))
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **documents(positions, bounds)).logits[0].float()


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_logits_are_those_of_each_document_alone(family: str) -> None:
    model, examples = tiny(family), rows()
    exact = logits_alone(model, examples)
    model.bfloat16()
    rounded = logits_alone(model, examples)
    assert attend_per_document(model, cuda=True, half=True) == VARLEN
    error = (packed_logits(model, examples) - exact).norm()
    assert error <= 1.5 * (rounded - exact).norm()


@pytest.mark.parametrize("family", CONFIGS)
def test_gradients_are_those_of_the_mask_over_the_whole_row(family: str) -> None:
    import torch

    examples = rows()
    batch = [tensor.cuda() for tensor in PackedExamples(examples).collate(range(len(examples)))]
    gradients = []
    exact = tiny(family)
    attend_per_document(exact, cuda=True, half=False)  # by PyTorch's, with the mask
    for model in (exact, copy.deepcopy(exact).bfloat16(), copy.deepcopy(exact).bfloat16()):
        if len(gradients) == 2:
            attend_per_document(model, cuda=True, half=True)
        loss, _ = Generation(packing=True).loss(model, model.get_output_embeddings(), batch)
        loss.backward()
        gradients.append(torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None]))
    by_mask, by_kernel = ((each - gradients[0]).norm() for each in gradients[1:])
    assert by_kernel <= 1.5 * by_mask


def test_what_the_kernel_does_not_take_goes_document_by_document() -> None:
    import torch

    model, examples = tiny("gpt2").bfloat16().train(), rows()  # its attention drops out
    attend_per_document(model, cuda=True, half=True)
    assert torch.isfinite(packed_logits(model, examples)).all()
