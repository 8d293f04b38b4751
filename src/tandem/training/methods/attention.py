"""Causal attention in bf16 on a processor, in blocks of queries.

PyTorch's fused kernel leaves the processor's bf16 products unused: on one with them (AVX-512), forward and backward of
a document of 440 tokens took 18 ms by it and 5 ms by the plain products below, with rounding errors alike (a few 1e-3
of the result, against float32). In float32 there is nothing to gain.

Imported only where a model computes: it needs torch at once.
"""

from __future__ import annotations

from typing import Any

import torch

BLOCK = 128  # queries; the triangle above the diagonal is computed within a block only
# The backward pass needs the weights, heads × length²/2: 9 MB a layer for 9 heads at this length. Longer ones take the
# fused kernel, whose memory grows with the length alone.
LONGEST = 1024


def worth_it(query: Any, *, dropout: float) -> bool:
    """Whether `causal_attention` takes these queries, (batch, heads, seq, head), and is faster."""
    return bool(
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.shape[0] == 1
        and query.shape[2] <= LONGEST
        and not dropout
    )


def causal_attention(query: Any, key: Any, value: Any, scale: float) -> Any:
    """Each query attends to the keys up to its own place; several query heads may share a key head.

    Args:
        query: (1, heads, seq, head).
        key: (1, key heads, seq, head), where heads is a multiple of key heads.
        value: As `key`.
        scale: Of the products, before the softmax.

    Returns:
        (1, heads, seq, head), of the queries' type.
    """
    _, heads, length, width = query.shape
    groups = key.shape[1]
    grouped = (query[0] * scale).view(groups, heads // groups, length, width)
    result = _Blocks.apply(grouped, key[0], value[0])  # type: ignore[no-untyped-call]
    return result.view(1, heads, length, width)


class _Blocks(torch.autograd.Function):
    """Of (groups, share, seq, head) queries, already scaled, to (groups, seq, head) keys and values."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        groups, share, length, width = query.shape
        above = torch.full((BLOCK, BLOCK), float("-inf"), dtype=query.dtype).triu(1)
        results, weights = [], []
        for begin in range(0, length, BLOCK):
            end = min(length, begin + BLOCK)
            rows = end - begin
            block = query[:, :, begin:end].reshape(groups, share * rows, width)
            scores = torch.bmm(block, key[:, :end].transpose(1, 2)).view(groups, share, rows, end)
            scores[..., begin:] += above[:rows, :rows]
            weight = torch.softmax(scores, -1).view(groups, share * rows, end)
            results.append(torch.bmm(weight, value[:, :end]).view(groups, share, rows, width))
            weights.append(weight)
        ctx.save_for_backward(query, key, value, *weights)
        return torch.cat(results, dim=2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        query, key, value, *weights = ctx.saved_tensors
        groups, share, length, width = query.shape
        of_query = torch.empty_like(query)
        # Summed over blocks in float32, as a single product would sum them.
        of_key = torch.zeros(key.shape, dtype=torch.float32)
        of_value = torch.zeros(value.shape, dtype=torch.float32)
        for weight, begin in zip(weights, range(0, length, BLOCK), strict=True):
            end = min(length, begin + BLOCK)
            block = query[:, :, begin:end].reshape(groups, -1, width)
            of_result = gradient[:, :, begin:end].reshape(groups, -1, width)
            of_value[:, :end] += torch.bmm(weight.transpose(1, 2), of_result)
            of_weight = torch.bmm(of_result, value[:, :end].transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype)
            of_query[:, :, begin:end] = torch.bmm(of_scores, key[:, :end]).view(groups, share, end - begin, width)
            of_key[:, :end] += torch.bmm(of_scores.transpose(1, 2), block)
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype)
