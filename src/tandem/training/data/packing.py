"""Several documents in one row, none of which sees another: which models can, and the attention that does it.

A packed row has no padding. Positions begin again with each document (so `transformers` masks attention between
documents wherever it builds a mask itself), and the boundaries travel as `cu_seq_lens_q`, as flash attention's kernels
for sequences of several lengths want them.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

# Families for which a test compares the logits of packed documents with those of each alone. What isn't among them may
# mix neighbours in ways that no mask shows (recurrent states, convolutions over the row, attention in chunks).
FAMILIES = frozenset({"gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"})
PER_DOCUMENT = "tandem_per_document"  # our attention's name in transformers


def obstacle(model: Path) -> str | None:
    """Why the documents of a model can't be packed, or None if they can.

    Args:
        model: Folder with config.json.
    """
    from transformers import AutoConfig

    family = AutoConfig.from_pretrained(model, trust_remote_code=False).model_type
    if family in FAMILIES:
        return None
    return f"packing is proven for {', '.join(sorted(FAMILIES))}, and this model is a {family}: rows are padded"


def choose_attention(*, cuda: bool, half: bool, flash: bool) -> str:
    """The attention for packed rows, by its name in transformers.

    Args:
        cuda: On a GPU.
        half: In bf16 or fp16, which flash attention needs.
        flash: The package `flash-attn` is installed.

    Returns:
        On a processor one call for each document: a mask over the whole row would cost its square. On a GPU flash
        attention, or without it PyTorch's with the block-diagonal mask that transformers makes of the positions.
    """
    if not cuda:
        return PER_DOCUMENT
    return "flash_attention_2" if half and flash else "sdpa"


def attend_per_document(model: Any, *, cuda: bool, half: bool) -> str:
    """Give a model the attention for packed rows.

    Args:
        model: A causal language model of transformers, with or without an adapter.
        cuda: On a GPU.
        half: In bf16 or fp16.

    Returns:
        The attention's name.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.utils import is_flash_attn_2_available

    name = choose_attention(cuda=cuda, half=half, flash=is_flash_attn_2_available())
    if name == PER_DOCUMENT:
        AttentionInterface.register(name, per_document_attention)
        AttentionMaskInterface.register(name, _mask)
    model.set_attn_implementation(name)
    return name


def documents(position_ids: Any, bounds: Any) -> dict[str, Any]:
    """What tells a model of the documents in a row, by its arguments' names in transformers.

    Args:
        position_ids: (1, tokens) int64, beginning again with each document.
        bounds: (documents + 1,) int32, where each document begins and the last ends.
    """
    longest = int(bounds.diff().max())
    return {
        "position_ids": position_ids,
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def per_document_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    sliding_window: int | None = None,
    cu_seq_lens_q: Any = None,
    **options: Any,
) -> tuple[Any, None]:
    """Causal attention over each document of a row by itself: the signature is that of transformers.

    Args:
        module: The attention layer.
        query: (batch, heads, seq, head).
        key: (batch, key heads, seq, head).
        value: As `key`.
        attention_mask: None, or for padded rows (batch, 1, seq, seq) bool, which is then all that counts.
        sliding_window: How many tokens a token sees, itself included, or None for all before it.
        cu_seq_lens_q: (documents + 1,) int32, where each document begins and the last ends; None for one document.
        **options: Dropout, scaling, and what else transformers passes on.

    Returns:
        (batch, seq, heads, head), and None for the attention weights.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from tandem.training.methods.attention import causal_attention, worth_it

    if attention_mask is not None or cu_seq_lens_q is None:
        if attention_mask is None and sliding_window is not None and key.shape[2] > sliding_window:
            attention_mask = _band(query.shape[2], key.shape[2], sliding_window, query.device)
        result, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result, None
    parts = []
    for begin, end in pairwise(cu_seq_lens_q.tolist()):
        document = [tensor[:, :, begin:end] for tensor in (query, key, value)]
        length = end - begin
        band = None
        if sliding_window is not None and length > sliding_window:
            band = _band(length, length, sliding_window, query.device)
        if band is None and worth_it(document[0], dropout=options.get("dropout", 0.0)):
            scale = options.get("scaling") or query.shape[-1] ** -0.5
            parts.append(causal_attention(document[0], document[1], document[2], scale).transpose(1, 2))
        else:
            part, _ = sdpa_attention_forward(module, *document, band, **options)
            parts.append(part)
    return torch.cat(parts, dim=1), None


def _band(queries: int, keys: int, window: int, device: Any) -> Any:
    """(queries, keys) bool: a query, the last of which is at the last key, sees so many keys, its own included."""
    import torch

    last = keys - queries
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(last).triu(last + 1 - window)


def _mask(*, attention_mask: Any = None, **options: Any) -> Any:
    # Packed rows need no mask; padded ones, which generation makes, get the usual one.
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)
