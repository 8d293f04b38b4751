"""No document of a packed row sees its neighbours: its logits are those that it has alone."""

from __future__ import annotations

import copy
import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from tandem.config.machine import Processor
from tandem.training.data import packing
from tandem.training.data.dataset import Examples, PackedExamples
from tandem.training.data.packing import (
    FAMILIES,
    PER_DOCUMENT,
    VARLEN,
    attend_per_document,
    choose_attention,
    documents,
    obstacle,
)
from tandem.training.loss import completion_loss
from tandem.training.tasks import Generation

WINDOW = 6  # shorter than most of the documents below
SMALL = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"vocab_size": 128, "n_embd": 48, "n_head": 3, "n_layer": 2, "n_positions": 64}),
    "llama": ("llama", SMALL | {"num_key_value_heads": 3}),
    "smollm2": ("llama", SMALL | {"tie_word_embeddings": True, "rope_theta": 100000.0}),
    "smollm3": ("smollm3", SMALL),  # every fourth layer without positions
    "qwen2": ("qwen2", SMALL),
    "qwen2 with a window": (
        "qwen2",
        SMALL | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", SMALL | {"head_dim": 16}),
    "mistral": ("mistral", SMALL | {"sliding_window": None}),
    "mistral with a window": ("mistral", SMALL | {"sliding_window": WINDOW}),
    "phi3": ("phi3", SMALL),
    "phi3 with a window": ("phi3", SMALL | {"sliding_window": WINDOW}),
}
LENGTHS = [5, 17, 1, 9, 2]


def tiny(name: str) -> Any:
    family, fields = CONFIGS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields), attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # far from the usual start, at which attention hardly matters
    return model


def rows() -> Examples:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 128, (length,), generator=generator).tolist() for length in LENGTHS]
    return Examples.pack([(row, [False] + [n % 3 > 0 for n in range(len(row) - 1)]) for row in ids])


def packed_logits(model: Any, examples: Examples) -> torch.Tensor:
    ids, _, positions, bounds = PackedExamples(examples).collate(range(len(examples)))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=None, use_cache=False, **documents(positions, bounds)).logits[0]


def logits_alone(model: Any, examples: Examples) -> torch.Tensor:
    alone = [PackedExamples(examples).collate([index])[0] for index in range(len(examples))]
    with torch.no_grad():
        return torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in alone])


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_logits_are_those_of_each_document_alone(name: str) -> None:
    model, examples = tiny(name), rows()
    alone = logits_alone(model, examples)  # by transformers' own plainest attention
    assert attend_per_document(model, cuda=False, half=False) == PER_DOCUMENT
    torch.testing.assert_close(packed_logits(model, examples), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_so_they_are_with_the_mask_that_transformers_makes_of_positions(name: str) -> None:
    model, examples = tiny(name), rows()
    alone = logits_alone(model, examples)
    assert attend_per_document(model, cuda=True, half=False) == "sdpa"
    torch.testing.assert_close(packed_logits(model, examples), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_boundaries_they_would_not_be(name: str) -> None:
    model, examples = tiny(name), rows()
    ids, *_ = PackedExamples(examples).collate(range(len(examples)))
    with torch.no_grad():
        naive = model(input_ids=ids, use_cache=False).logits[0]
    alone = logits_alone(model, examples)
    assert (naive[: LENGTHS[0]] - alone[: LENGTHS[0]]).abs().max() < 1e-4
    assert (naive[LENGTHS[0] :] - alone[LENGTHS[0] :]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "smollm2", "mistral with a window"])
@pytest.mark.parametrize("lora", [False, True])
def test_loss_and_gradients_are_those_of_padded_rows(name: str, lora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    model, examples = tiny(name), rows()
    if lora:
        targets = ["c_attn"] if name == "gpt2" else ["q_proj", "v_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    packed_model = copy.deepcopy(model)
    padded = completion_loss(model, model.get_output_embeddings(), *examples.collate(range(5), pad_id=0))
    padded.backward()
    attend_per_document(packed_model, cuda=False, half=False)
    batch = PackedExamples(examples).collate(range(5))
    packed, _ = Generation(packing=True).loss(packed_model, packed_model.get_output_embeddings(), batch)
    packed.backward()
    assert packed.item() == pytest.approx(padded.item(), rel=1e-5)
    wanted = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert wanted
    for key, parameter in packed_model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, wanted[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["smollm2", "mistral with a window"])
def test_the_same_attention_writes_answers_without_padding_too(name: str) -> None:
    model, examples = tiny(name), rows()
    ids, *_ = PackedExamples(examples).collate([1])
    wanted = model.generate(ids, max_new_tokens=12, do_sample=False)
    attend_per_document(model, cuda=False, half=False)
    assert model.generate(ids, max_new_tokens=12, do_sample=False).tolist() == wanted.tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_in_bf16_they_are_as_near_as_rounding_allows(name: str) -> None:
    model, examples = tiny(name), rows()
    exact = logits_alone(model, examples)
    model.bfloat16()
    rounded = logits_alone(model, examples).float()
    attend_per_document(model, cuda=False, half=True)
    error = (packed_logits(model, examples).float() - exact).norm()
    assert error <= 1.5 * (rounded - exact).norm()


def kernel(query: Any, key: Any, value: Any, *bounds: Any, scale: Any, window_size: Any, enable_gqa: bool) -> Any:
    """What PyTorch's flash attention over sequences of several lengths computes, on a processor, document by document.

    (tokens, heads, head) each; `bounds` are where documents begin, for queries and keys, and the longest of both.
    """
    inspect.signature(varlen_attn).bind(
        query, key, value, *bounds, scale=scale, window_size=window_size, enable_gqa=enable_gqa
    )
    starts, of_keys, longest, longest_key = bounds
    assert of_keys is starts
    assert longest == longest_key == starts.diff().max()
    left, right = window_size
    parts = []
    for begin, end in pairwise(starts.tolist()):
        row, column = torch.arange(end - begin)[:, None], torch.arange(end - begin)
        seen = column <= row + right
        if left >= 0:
            seen &= column >= row - left
        document = [tensor[begin:end].transpose(0, 1) for tensor in (query, key, value)]
        parts.append(scaled_dot_product_attention(*document, seen, scale=scale, enable_gqa=enable_gqa).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpus_kernel_is_asked_for_what_each_document_has_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(varlen, "varlen_attn", lambda *args, **options: asked.append(1) or kernel(*args, **options))
    monkeypatch.setattr(packing, "read_processor", lambda: Processor("x86_64", frozenset(), (9, 0)))
    model, examples = tiny(name), rows()
    exact = logits_alone(model, examples)
    model.bfloat16()
    rounded = logits_alone(model, examples).float()
    assert attend_per_document(model, cuda=True, half=True) == VARLEN
    error = (packed_logits(model, examples).float() - exact).norm()
    assert error <= 1.5 * (rounded - exact).norm()
    assert len(asked) == model.config.num_hidden_layers


@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_what_that_kernel_does_not_take_goes_document_by_document(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "read_processor", lambda: Processor("x86_64", frozenset(), (9, 0)))
    model, examples = tiny(name), rows()  # in float32, and gpt2's attention drops out
    alone = logits_alone(model, examples)
    attend_per_document(model, cuda=True, half=True)
    torch.testing.assert_close(packed_logits(model, examples), alone, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(packed_logits(model.bfloat16().train() if name == "gpt2" else model, examples)).all()


@pytest.mark.parametrize("name", ["smollm2", "mistral with a window"])
def test_the_same_attention_still_takes_padded_rows_and_writes_answers(name: str) -> None:
    model, examples = tiny(name), rows()
    ids, attention, _ = examples.collate([1, 3], pad_id=0)
    ids, attention = ids.flip(1).roll(0, 1), attention.flip(1)  # padding on the left, as generation has it
    wanted = model.generate(ids, attention_mask=attention, max_new_tokens=4, do_sample=False)
    attend_per_document(model, cuda=False, half=False)
    assert model.generate(ids, attention_mask=attention, max_new_tokens=4, do_sample=False).tolist() == wanted.tolist()


def test_a_packed_row_says_where_its_documents_begin() -> None:
    examples = Examples.pack([([5, 6, 7], [False, True, True]), ([8, 9], [False, True]), ([1], [False])])
    ids, mask, positions, bounds = PackedExamples(examples).collate([1, 0])
    assert ids.tolist() == [[8, 9, 5, 6, 7]]
    assert mask.tolist() == [[False, True, False, True, True]]
    assert positions.tolist() == [[0, 1, 0, 1, 2]]
    assert bounds.tolist() == [0, 2, 5]
    said = documents(positions, bounds)
    assert said["cu_seq_lens_q"] is said["cu_seq_lens_k"] is bounds
    assert said["max_length_q"] == said["max_length_k"] == 3


def test_a_first_token_with_loss_is_refused_since_its_neighbour_would_predict_it() -> None:
    with pytest.raises(ValueError, match="first token"):
        Examples.pack([([5, 6], [True, True])])


@pytest.mark.parametrize(
    ("cuda", "half", "flash", "varlen", "name"),
    [
        (False, True, True, True, PER_DOCUMENT),
        (True, True, True, True, "flash_attention_2"),
        (True, True, False, True, VARLEN),
        (True, False, True, True, "sdpa"),
        (True, True, False, False, "sdpa"),
    ],
)
def test_the_attention_is_what_the_device_can(cuda: bool, half: bool, flash: bool, varlen: bool, name: str) -> None:
    assert choose_attention(cuda=cuda, half=half, flash=flash, varlen=varlen) == name


def test_every_proven_family_is_proven_here() -> None:
    assert {family for family, _ in CONFIGS.values()} == FAMILIES


def test_other_families_are_padded_and_the_reason_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    assert "a mamba: rows are padded" in str(obstacle(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert obstacle(tmp_path) is None
