"""How much a worker computes and holds: model FLOPs, what the device could do, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Peak dense bf16/fp16 tensor FLOP/s (without sparsity), from NVIDIA's data sheets of each product. The first name that
# torch's device name contains counts.
PEAK_FLOPS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 NVL", 835e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A100", 312e12),
    ("A40", 150e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


def peak_flops(device: str, *, half: bool) -> float | None:
    """What a device computes at best in a second, or None where it isn't known.

    Args:
        device: Its name, as `torch.cuda.get_device_name` has it; "" for a processor.
        half: In bf16 or fp16: what tensor cores do in float32 depends on settings, and isn't stated.
    """
    if not half:
        return None
    words = device.replace("-", " ").split()
    for name, flops in PEAK_FLOPS:
        parts = name.split()
        if any(words[at : at + len(parts)] == parts for at in range(len(words))):
            return flops
    return None


@dataclass(frozen=True)
class ModelFlops:
    """Model FLOPs of a training step: what the mathematics needs, without what checkpointing computes twice.

    2 per parameter and token forward, 2 for the gradients that flow through it, 2 for its own gradient where it is
    trained; attention 4 · layers · width · length per token forward, and twice that backward (the count of PaLM,
    arXiv 2204.02311, appendix B, for frozen weights too). The head counts only where there is loss, since only there
    it is computed; looking up embeddings costs nothing.

    Args:
        frozen: Parameters of the body that aren't trained.
        trained: Those that are.
        head: Parameters of the language-model head.
        head_trained: Whether it is trained.
        layers: Blocks.
        width: Heads times the width of one.
    """

    frozen: int
    trained: int
    head: int
    head_trained: bool
    layers: int
    width: int

    @classmethod
    def of(cls, model: Any, head: Any) -> ModelFlops:
        """Of a transformers model, with or without an adapter; also under ZeRO 3, where `ds_numel` is a whole's size.

        Args:
            model: The model.
            head: Its output embeddings, or None.
        """
        outside = {id(parameter) for parameter in head.parameters()} if head is not None else set()
        outside |= {id(parameter) for parameter in model.get_input_embeddings().parameters()}
        sizes = {True: 0, False: 0}
        for parameter in model.parameters():
            if id(parameter) not in outside:
                sizes[parameter.requires_grad] += whole_size(parameter)
        heads = list(head.parameters()) if head is not None else []
        config = model.config.get_text_config()
        return cls(
            frozen=sizes[False],
            trained=sizes[True],
            head=sum(whole_size(parameter) for parameter in heads),
            head_trained=any(parameter.requires_grad for parameter in heads),
            layers=config.num_hidden_layers,
            width=getattr(config, "head_dim", None) * config.num_attention_heads
            if getattr(config, "head_dim", None)
            else config.hidden_size,
        )

    def step(self, lengths: Sequence[int], loss_tokens: float) -> float:
        """FLOPs of a step, over all workers.

        Args:
            lengths: Tokens of each row.
            loss_tokens: Tokens for which the head is computed.
        """
        tokens = sum(lengths)
        body = (4 * self.frozen + 6 * self.trained) * tokens
        head = (6 if self.head_trained else 4) * self.head * loss_tokens
        return float(body + head + 12 * self.layers * self.width * sum(length * length for length in lengths))


@dataclass(frozen=True)
class Meter:
    """What a step's record says of memory and of how well the devices were used.

    Args:
        flops: Of the model.
        peak: FLOP/s of one worker's device; None where it isn't known.
        device: The worker's, as torch has it.
    """

    flops: ModelFlops
    peak: float | None
    device: Any

    @classmethod
    def of(cls, engine: Any, head: Any) -> Meter:
        """For a worker's DeepSpeed engine and the model's output embeddings (None if it has none)."""
        import torch

        name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else ""
        half = engine.bfloat16_enabled() or engine.fp16_enabled()
        return cls(ModelFlops.of(engine.module, head), peak_flops(name, half=half), engine.device)

    def figures(self, lengths: Sequence[int], loss_tokens: float, seconds: float) -> dict[str, Any]:
        """For a step's record; all workers call it together.

        Args:
            lengths: Tokens of each row of the batch.
            loss_tokens: Tokens for which the head was computed.
            seconds: The step took.

        Returns:
            ``memory_bytes``, a list by worker: the most GPU memory that its tensors took since the start, or without a
            GPU its resident memory now; and where the peak is known ``mfu``, model FLOPs over what the devices could
            have done in this time.
        """
        import torch
        import torch.distributed

        workers = torch.distributed.get_world_size()
        held = torch.zeros(workers, dtype=torch.float64, device=self.device)
        held[torch.distributed.get_rank()] = _memory_bytes(self.device)
        torch.distributed.all_reduce(held)
        memory = [int(each) for each in held.tolist()]
        if self.peak is None:
            return {"memory_bytes": memory}
        return {
            "memory_bytes": memory,
            "mfu": self.flops.step(lengths, loss_tokens) / (seconds * self.peak * workers),
        }


def _memory_bytes(device: Any) -> int:
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def whole_size(parameter: Any) -> int:
    """Elements of a parameter, whatever this worker's tensor holds of it.

    Under ZeRO 3 the tensor is this worker's share, and `ds_numel` the whole; bitsandbytes packs two weights of 4 bits
    into each byte.

    Args:
        parameter: Of the model that DeepSpeed trains.
    """
    size = int(getattr(parameter, "ds_numel", parameter.numel()))
    if getattr(parameter, "quant_state", None) is not None:
        return 2 * size * int(parameter.element_size())
    return size
