from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tandem.training.data.dataset import Examples
from tandem.training.loss import completion_loss

SEQUENCES = [
    ([5, 6, 7, 8, 9], [False, False, True, True, False]),
    ([10, 11, 12], [False, False, True]),
    ([20, 21, 22, 23, 24, 25, 26], [False, True, False, False, False, True, True]),
]


def full_loss(model: Any, ids: torch.Tensor, attention: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As in any textbook: all logits, then the labels that aren't learnt ignored."""
    logits = model(input_ids=ids, attention_mask=attention).logits
    labels = ids.masked_fill(~mask, -100)
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


def test_the_head_where_there_is_loss_gives_the_full_loss_and_gradients(model: Any) -> None:
    batch = Examples.pack(SEQUENCES).collate([0, 1, 2], pad_id=0)
    full = full_loss(model, *batch)
    full.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    partial = completion_loss(model, model.get_output_embeddings(), *batch)
    partial.backward()
    assert partial.item() == pytest.approx(full.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_the_head_sees_only_the_positions_with_loss(model: Any) -> None:
    seen: list[torch.Size] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    completion_loss(model, head, *Examples.pack(SEQUENCES).collate([0, 1, 2], pad_id=0))
    assert seen == [torch.Size([1, 6, model.config.vocab_size])]
    handle.remove()
    whole = model(input_ids=torch.tensor([[5, 6, 7]])).logits  # and afterwards all of them again
    assert whole.shape[:2] == (1, 3)


def test_parts_of_a_batch_add_up_to_the_whole_whatever_the_padding(model: Any) -> None:
    examples = Examples.pack(SEQUENCES)
    head = model.get_output_embeddings()
    whole = completion_loss(model, head, *examples.collate([0, 1, 2], pad_id=0)).item()
    parts = [completion_loss(model, head, *examples.collate([i], pad_id=3)).item() for i in range(3)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_examples_survive_their_file(tmp_path: Path) -> None:
    Examples.pack(SEQUENCES).save(tmp_path / "examples")
    read = Examples.load(tmp_path / "examples")
    assert len(read) == 3
    assert list(read.lengths) == [5, 3, 7]
    assert read.lengths is read.lengths  # counted once
    assert read.loss_tokens([0, 2]) == 5
    ids, attention, mask = read.collate([1, 0], pad_id=99)
    assert ids.tolist() == [[10, 11, 12, 99, 99], [5, 6, 7, 8, 9]]
    assert attention.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert mask.tolist() == [[False, False, True, False, False], [False, False, True, True, False]]
