"""The loss on completions, with the language-model head computed only where there is loss.

Logits of a large vocabulary over whole sequences are most of the memory of a forward pass and a fifth of the
arithmetic of a small model; answers are a few tokens of each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def head_only_where(head: Any, keep: Any) -> Iterator[None]:
    """Within, the head sees only the hidden states of the positions to keep.

    A hook rather than `logits_to_keep`: that one takes the same positions of every row, and answers end at different
    ones. What a model does to its logits after the head (soft caps, scaling) still happens.

    Args:
        head: The module that maps (batch, seq, hidden) to (batch, seq, vocabulary).
        keep: (batch, seq) bool; the head's result becomes (1, kept, vocabulary).
    """

    def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args  # (batch, seq, hidden)
        return (hidden[keep].unsqueeze(0), *rest)  # (1, kept, hidden)

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def completion_loss(
    model: Any,
    head: Any,
    input_ids: Any,
    attention_mask: Any,
    loss_mask: Any,
    documents: Mapping[str, Any] | None = None,
) -> Any:
    """Summed cross-entropy of the tokens that carry loss.

    Args:
        model: A causal language model of transformers, or the DeepSpeed engine around it.
        head: Its output embeddings.
        input_ids: (batch, seq) int64.
        attention_mask: (batch, seq) int64, or None where no row is padded.
        loss_mask: (batch, seq) bool, False in the first column and where a packed document begins.
        documents: For packed rows, what `tandem.training.data.packing.documents` says of them.

    Returns:
        A float32 scalar, in nats: the sum, so that parts of a batch add up to the whole.
    """
    import torch
    from torch.nn import functional

    targets = input_ids[:, 1:][loss_mask[:, 1:]]  # (kept,)
    keep = torch.zeros_like(loss_mask)
    keep[:, :-1] = loss_mask[:, 1:]  # the position before predicts the token
    with head_only_where(head, keep):
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **(documents or {}))
    logits = output.logits  # (1, kept, vocab)
    return functional.cross_entropy(logits[0].float(), targets, reduction="sum")
