"""How much memory a worker will need, from the model's shape and the settings alone.

Model states as DeepSpeed's own estimators count them (`deepspeed.runtime.zero.stage_1_and_2.
estimate_zero2_model_states_mem_needs`, `deepspeed.runtime.zero.stage3.estimate_zero3_model_states_mem_needs`: 2 bytes
of weights, 2 + 4 of gradients, 4 of master weights and 8 of Adam's for each parameter that is trained in 16 bits),
carried over to frozen base weights, to 4 bits (Dettmers et al., arXiv 2305.14314) and to fp32. ZeRO 1 from
Rajbhandari et al., arXiv 1910.02054. Activations as in Korthikanti et al., arXiv 2205.05198, section 4.1, without the
quadratic term, which SDPA doesn't store, and for any width of the feed-forward layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

NF4_BYTES = (4 + 0.127) / 8  # per weight, with the doubly quantized constants: QLoRA, section 3
MAX_LIVE = 1_000_000_000  # parameters that ZeRO 3 keeps gathered: DeepSpeed's own stage3_max_live_parameters
PREFETCH = 50_000_000  # those that it gathers ahead, from its second pass on: stage3_prefetch_bucket_size
HOST_BUFFERS = 1.5  # DeepSpeed's estimators: additional_buffer_factor
# Python with torch, Ray and DeepSpeed before there is a model, and what the first step allocates once (kernels,
# autograd, communication): resident memory, as measured without a GPU. A CUDA context takes about as much of a GPU.
IMPORTS = 680 * 2**20
FIRST_STEP = 60 * 2**20


@dataclass(frozen=True)
class ModelShape:
    """What the estimate needs to know of a model.

    Attributes:
        parameters: All of the base model, shared ones once.
        adapter: Parameters of the adapter; 0 where everything is trained.
        quantizable: Those of the base that QLoRA keeps in 4 bits: linear layers but the head.
        largest_layer: Of the largest single module, as DeepSpeed counts it.
        layers: Number of blocks.
        hidden: Width of the residual stream.
        queries: Width of all attention heads together.
        keys: Width of all key (and value) heads together.
        feed_forward: Inner width of the feed-forward layer.
        gated: Whether that layer has a gate (SwiGLU), and so four tensors of the inner width and not two.
        outputs: Width of the logits.
    """

    parameters: int
    adapter: int
    quantizable: int
    largest_layer: int
    layers: int
    hidden: int
    queries: int
    keys: int
    feed_forward: int
    gated: bool
    outputs: int


@dataclass(frozen=True)
class Settings:
    """What decides about memory.

    Attributes:
        method: ``full``, ``lora`` or ``qlora``.
        stage: ZeRO's.
        precision: ``bf16``, ``fp16`` or ``fp32``.
        workers: That share the states.
        micro_batch_size: Rows in a forward pass.
        max_length: Tokens in a row.
        gradient_checkpointing: Only the inputs of the layers are kept for the backward pass.
        offload_optimizer: ``none``, ``cpu`` or ``nvme``.
        offload_param: The same.
        bucket: Elements that are reduced at once; there are two buckets where communication overlaps.
        overlap: Whether it does.
        fused: Whether Adam's step is one kernel, as on GPUs.
    """

    method: str
    stage: int
    precision: str
    workers: int
    micro_batch_size: int
    max_length: int
    gradient_checkpointing: bool = False
    offload_optimizer: str = "none"
    offload_param: str = "none"
    bucket: int = 0
    overlap: bool = False
    fused: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes per worker.

    Attributes:
        weights: Of the base and the adapter; under ZeRO 3 a share, and what is gathered at once.
        gradients: In the precision of the weights.
        optimizer: Master weights and Adam's moments.
        step: Gradients in fp32 and Adam's temporaries: in the optimizer's step alone, when the next three aren't there.
        buckets: In which gradients are reduced.
        activations: What the forward pass keeps for the backward pass.
        logits: At most: as if every token carried loss.
        process: Imports, and what the first step allocates once.
        host: Offloaded to the processor's memory.
        disk: Offloaded to NVMe.
    """

    weights: int
    gradients: int
    optimizer: int
    step: int
    buckets: int
    activations: int
    logits: int
    process: int
    host: int
    disk: int

    @property
    def total(self) -> int:
        """At the peak, on the device that computes."""
        passes = self.activations + self.logits + self.buckets
        return self.weights + self.gradients + self.optimizer + max(self.step, passes) + self.process


def estimate(shape: ModelShape, settings: Settings) -> Estimate:
    """Bytes that a worker needs.

    Args:
        shape: The model.
        settings: How it is trained.
    """
    width = 4 if settings.precision == "fp32" else 2
    share = settings.workers if settings.stage >= 1 else 1
    trained = shape.adapter if settings.method != "full" else shape.parameters
    base = shape.parameters * width
    if settings.method == "qlora":
        base = int(shape.quantizable * NF4_BYTES) + (shape.parameters - shape.quantizable) * width
    weights = base + (shape.adapter * width if settings.method != "full" else 0)
    states, step = _states(trained, width, settings, share)
    gradients = trained * width // (share if settings.stage >= 2 else 1)
    # DeepSpeed fills one bucket while it reduces another, or a copy of the same one.
    copies = 2 if settings.overlap or settings.stage == 3 else 1
    buckets = min(trained, settings.bucket) * width * copies if settings.stage >= 1 else 0
    gathered = 0
    if settings.stage == 3:
        # A layer's weights and gradients at least; in small models nothing is let go of within a step.
        live = max(2 * shape.largest_layer, min(shape.parameters, MAX_LIVE))
        gathered = (live + min(shape.parameters, PREFETCH)) * width
        weights //= share
    placed: Mapping[str, int] = {"cpu": 0, "nvme": 0}
    if settings.offload_optimizer != "none":
        placed = _moved(placed, settings.offload_optimizer, states + step)
        states = step = 0
    if settings.offload_param != "none":
        placed = _moved(placed, settings.offload_param, weights)
        weights = 0
    return Estimate(
        weights=weights + gathered,
        gradients=gradients,
        optimizer=states,
        step=step,
        buckets=buckets,
        activations=activations(shape, settings),
        logits=_logits(shape, settings),
        process=IMPORTS + FIRST_STEP,
        host=ceil(placed["cpu"] * HOST_BUFFERS),
        disk=placed["nvme"],
    )


def activations(shape: ModelShape, settings: Settings) -> int:
    """Bytes that a forward pass keeps.

    Per token and layer, in elements: the inputs of both norms, of the attention and of the feed-forward layer (4 h),
    the queries and the attention's output (2 q), keys and values (2 k), and 2 (4 with a gate) of the feed-forward
    width: for GPT's q = k = h and 4 h the 16 h of the paper's 34 s b h bytes, the rest of which are dropout masks. With
    checkpointing, the input of each layer and all of one.
    """
    width = 4 if settings.precision == "fp32" else 2
    tokens = settings.micro_batch_size * settings.max_length
    inner = shape.feed_forward * (4 if shape.gated else 2)
    layer = (4 * shape.hidden + 2 * shape.queries + 2 * shape.keys + inner) * width * tokens
    if settings.gradient_checkpointing:
        return shape.layers * shape.hidden * width * tokens + layer
    return shape.layers * layer


def _states(trained: int, width: int, settings: Settings, share: int) -> tuple[int, int]:
    """Bytes of the optimizer's states, and of what its step needs beside them."""
    if width == 4 and settings.stage == 0:
        return trained * 8, 0  # without master weights, on the gradients themselves
    # In all DeepSpeed's estimators count 20 bytes for ZeRO 2 and 18 for ZeRO 3, which steps in groups. In fp32 the
    # gradients are what they must be.
    gradients = 0 if width == 4 else 2 if settings.stage == 3 else 4
    # Where torch's AdamW isn't fused it has two temporaries of what it steps over: under ZeRO the whole share at once.
    temporaries = 0 if settings.fused or settings.stage == 0 else 8
    return trained * 12 // share, trained * (gradients + temporaries) // share


def _logits(shape: ModelShape, settings: Settings) -> int:
    # Logits, their softmax and the gradient in fp32; in 16 bits the logits stand beside their copy.
    each = 12 if settings.precision == "fp32" else 14
    return settings.micro_batch_size * settings.max_length * shape.outputs * each


def _moved(placed: Mapping[str, int], device: str, size: int) -> dict[str, int]:
    return {**placed, device: placed[device] + size}


def settings_of(
    combination: Mapping[str, Any], *, workers: int, micro_batch_size: int, max_length: int, **others: Any
) -> Settings:
    """From a combination that is decided in all its dimensions (see `tandem.specs.combinations`)."""
    return Settings(
        method=combination["method"],
        stage=combination["stage"],
        precision=combination["precision"],
        offload_optimizer=combination["offload_optimizer"],
        offload_param=combination["offload_param"],
        workers=workers,
        micro_batch_size=micro_batch_size,
        max_length=max_length,
        **others,
    )
