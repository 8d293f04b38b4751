"""Several documents in one row, none of which sees another: which models can, and the attention that does it.

A packed row has no padding. Positions begin again with each document (so `transformers` masks attention between
documents wherever it builds a mask itself), and the boundaries travel as `cu_seq_lens_q`, as flash attention's kernels
for sequences of several lengths want them.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from tandem.config.machine import read_processor

# Families for which a test compares the logits of packed documents with those of each alone. What isn't among them may
# mix neighbours in ways that no mask shows (recurrent states, convolutions over the row, attention in chunks).
FAMILIES = frozenset({"gpt2", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3"})
PER_DOCUMENT = "tandem_per_document"  # our attentions' names in transformers
VARLEN = "tandem_varlen"
VARLEN_CUDA_CAPABILITY = (8, 0)  # Ampere
LARGEST_HEAD = 256  # that the kernel of `varlen_attention` takes


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


def choose_attention(*, cuda: bool, half: bool, flash: bool, varlen: bool) -> str:
    """The attention for packed rows, by its name in transformers.

    Args:
        cuda: On a GPU.
        half: In bf16 or fp16, which flash attention needs.
        flash: The package `flash-attn` is installed.
        varlen: The GPU is one on which PyTorch's own flash attention runs.

    Returns:
        On a processor one call for each document: a mask over the whole row would cost its square. On a GPU flash
        attention over sequences of several lengths; where there is none PyTorch's with the block-diagonal mask that
        transformers makes of the positions.
    """
    if not cuda:
        return PER_DOCUMENT
    if half and flash:
        return "flash_attention_2"
    return VARLEN if half and varlen else "sdpa"


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

    capability = read_processor().cuda_capability if cuda else None
    varlen = capability is not None and capability >= VARLEN_CUDA_CAPABILITY
    name = choose_attention(cuda=cuda, half=half, flash=is_flash_attn_2_available(), varlen=varlen)
    ours = {PER_DOCUMENT: per_document_attention, VARLEN: varlen_attention}
    if name in ours:
        AttentionInterface.register(name, ours[name])
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


def varlen_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    sliding_window: int | None = None,
    cu_seq_lens_q: Any = None,
    max_length_q: int | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Any, None]:
    """As `per_document_attention`, in one call of PyTorch's flash attention over sequences of several lengths.

    What that kernel doesn't take (dropout, padded rows, float32, odd or large heads) goes document by document.

    Args:
        module: The attention layer.
        query: (1, heads, seq, head), in bf16 or fp16, on a GPU.
        key: (1, key heads, seq, head).
        value: As `key`.
        attention_mask: None, or for padded rows (batch, 1, seq, seq) bool, which is then all that counts.
        sliding_window: How many tokens a token sees, itself included, or None for all before it.
        cu_seq_lens_q: (documents + 1,) int32, where each document begins and the last ends; None for one document.
        max_length_q: Of the longest document.
        dropout: Of the attention's weights.
        scaling: Of the products; None for that of the head's width.
        **options: What else transformers passes on.

    Returns:
        (1, seq, heads, head), and None for the attention weights.
    """
    import torch

    width = query.shape[-1]
    taken = query.dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= LARGEST_HEAD
    if attention_mask is not None or cu_seq_lens_q is None or max_length_q is None or dropout or not taken:
        return per_document_attention(
            module,
            query,
            key,
            value,
            attention_mask,
            sliding_window=sliding_window,
            cu_seq_lens_q=cu_seq_lens_q,
            dropout=dropout,
            scaling=scaling,
            **options,
        )
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (seq, heads, head)
    result: Any = varlen_attn(
        query,
        key,
        value,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),  # to the left of a token, to its right
        enable_gqa=True,
    )
    return result.unsqueeze(0), None


def _band(queries: int, keys: int, window: int, device: Any) -> Any:
    """(queries, keys) bool: a query, the last of which is at the last key, sees so many keys, its own included."""
    import torch

    last = keys - queries
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(last).triu(last + 1 - window)


def _mask(*, attention_mask: Any = None, **options: Any) -> Any:
    # Packed rows need no mask; padded ones, which generation makes, get the usual one.
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **options)
