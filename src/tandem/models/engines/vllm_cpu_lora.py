"""LoRA on vLLM's CPU workers, adapter by adapter instead of token by token.

vLLM 0.32 multiplies every token with a copy of its adapter's weights, which made prompts five times slower with an
adapter than without; and it takes the copy by index, where a request without an adapter has -1: the last slot's
adapter answered for the base model. Here tokens are grouped by adapter, and those without one are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EXTENSION = "tandem.models.engines.vllm_cpu_lora.GroupedLora"
INSTALL = "use_grouped_lora"


class GroupedLora:
    """What vLLM mixes into its workers (``worker_extension_cls``)."""

    def use_grouped_lora(self) -> None:
        """Replace the operations in this worker's process; called through ``collective_rpc`` once it has started."""
        from vllm.lora.ops.torch_ops import lora_ops
        from vllm.lora.punica_wrapper import punica_cpu

        replacements = {"bgmv_shrink": shrink, "bgmv_expand": expand, "bgmv_expand_slice": expand_slice}
        for name, replacement in replacements.items():
            for module in (lora_ops, punica_cpu):
                if not hasattr(module, name):
                    raise AttributeError(f"{module.__name__}.{name} is no more: this vLLM isn't the one we know")
                setattr(module, name, replacement)


def shrink(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, scaling: float = 1.0) -> None:
    """``output = scaling · inputs @ A.T``, with each token's own A; 0 without an adapter.

    Args:
        inputs: (tokens, in).
        weights: (slots, 1, r, in) or without the 1.
        output: (tokens, r), overwritten.
        indices: (tokens,) of slots; negative without an adapter.
        scaling: A factor.
    """
    rank = weights.shape[-2]
    output[:, :rank] = 0
    for rows, slot in _groups(indices):
        output[rows, :rank] = scaling * (inputs[rows].to(output.dtype) @ _slot(weights, slot, output).T)


def expand(inputs: Tensor, weights: Tensor, output: Tensor, indices: Tensor, add_inputs: bool = True) -> None:
    """``output += inputs @ B.T``, with each token's own B; see `expand_slice`."""
    width = min(weights.shape[-2], output.shape[1])
    expand_slice(inputs, weights, output, indices, 0, width, add_inputs)


def expand_slice(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    indices: Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """``output[:, slice] += inputs @ B.T``, with each token's own B; nothing is added without an adapter.

    Args:
        inputs: (tokens, r).
        weights: (slots, 1, out, r) or without the 1.
        output: (tokens, all outs).
        indices: (tokens,) of slots; negative without an adapter.
        slice_offset: Where the slice begins.
        slice_size: Its width.
        add_inputs: False: overwrite instead of adding.
    """
    part = output[:, slice_offset : slice_offset + slice_size]
    if not add_inputs:
        part.zero_()
    for rows, slot in _groups(indices):
        part[rows] += inputs[rows].to(output.dtype) @ _slot(weights, slot, output)[:slice_size].T


def _groups(indices: Tensor) -> Iterator[tuple[Any, int]]:
    import torch

    slots = torch.unique(indices).tolist()
    if len(slots) == 1:
        # The usual case; a slice spares the copies.
        if slots[0] >= 0:
            yield slice(0, len(indices)), slots[0]
        return
    for slot in slots:
        if slot >= 0:
            yield (indices == slot).nonzero().squeeze(1), slot


def _slot(weights: Tensor, slot: int, output: Tensor) -> Tensor:
    chosen = weights[slot]
    return (chosen.squeeze(0) if chosen.dim() == 3 else chosen).to(output.dtype)
