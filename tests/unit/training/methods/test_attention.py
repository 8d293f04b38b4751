"""Attention in blocks gives what PyTorch's gives, to the rounding of bf16, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tandem.training.methods.attention import BLOCK, LONGEST, causal_attention, worth_it


def inputs(length: int, heads: int, key_heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(1, count, length, 16, generator=generator) for count in (heads, key_heads, key_heads)]


def results(tensors: list[torch.Tensor], *, exact: bool, fused: bool) -> list[torch.Tensor]:
    """The attention and its gradients, in float32."""
    dtype = torch.float32 if exact else torch.bfloat16
    query, key, value = (tensor.to(torch.bfloat16).to(dtype).requires_grad_() for tensor in tensors)
    if fused:
        result = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    else:
        result = causal_attention(query, key, value, 0.3)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(result.shape, generator=generator)
    gradients = torch.autograd.grad((result.float() * weights).sum(), (query, key, value))
    return [tensor.detach().float() for tensor in (result, *gradients)]


@pytest.mark.parametrize("length", [1, 7, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
@pytest.mark.parametrize(("heads", "key_heads"), [(3, 3), (9, 3), (4, 1)])
def test_it_is_attention(length: int, heads: int, key_heads: int) -> None:
    tensors = inputs(length, heads, key_heads)
    exact = results(tensors, exact=True, fused=True)
    torch.testing.assert_close(results(tensors, exact=True, fused=False), exact, rtol=1e-4, atol=1e-4)
    rounded = results(tensors, exact=False, fused=True)
    for ours, theirs, wanted in zip(results(tensors, exact=False, fused=False), rounded, exact, strict=True):
        assert (ours - wanted).norm() <= 2 * (theirs - wanted).norm() + 1e-2 * wanted.norm()


@pytest.mark.parametrize(
    ("shape", "dtype", "dropout", "wanted"),
    [
        ((1, 2, 8, 16), torch.bfloat16, 0.0, True),
        ((1, 2, 8, 16), torch.float32, 0.0, False),
        ((2, 2, 8, 16), torch.bfloat16, 0.0, False),
        ((1, 2, 8, 16), torch.bfloat16, 0.1, False),
        ((1, 1, LONGEST + 1, 1), torch.bfloat16, 0.0, False),
    ],
)
def test_it_is_taken_where_it_gains(shape: tuple[int, ...], dtype: torch.dtype, dropout: float, wanted: bool) -> None:
    assert worth_it(torch.empty(shape, dtype=dtype), dropout=dropout) is wanted
