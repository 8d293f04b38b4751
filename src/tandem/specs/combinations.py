"""Which training methods, ZeRO stages, offloads, precisions, devices and tasks go together, and why others don't.

A table as data: `REFUSALS` says what doesn't work, and everything else is accepted. What a spec alone decides is
refused when the spec is read; what the hardware decides, before the job starts anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DIMENSIONS: Mapping[str, tuple[str | int, ...]] = {
    "method": ("full", "lora", "qlora"),
    "stage": (0, 1, 2, 3),
    "offload_optimizer": ("none", "cpu", "nvme"),
    "offload_param": ("none", "cpu", "nvme"),
    "precision": ("bf16", "fp16", "fp32"),
    "device": ("cpu", "gpu"),
    "task": ("generation", "classification"),
}
_OFFLOADED = ("cpu", "nvme")


@dataclass(frozen=True)
class Refusal:
    """A set of combinations that don't work.

    Attributes:
        when: It holds where each of these dimensions has one of these values.
        reason: Why, in one line.
        remedy: What to change.
        source: Where this can be looked up.
    """

    when: Mapping[str, tuple[str | int, ...]]
    reason: str
    remedy: str
    source: str


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        {"method": ("qlora",), "device": ("cpu",)},
        "qlora needs a GPU: the 4-bit base weights (bitsandbytes, NF4) are computed there",
        "method: lora, or a cluster with GPUs",
        "Dettmers et al., arXiv 2305.14314",
    ),
    Refusal(
        {"method": ("qlora",), "stage": (3,)},
        "zero.Init takes no quantized weights: each worker would load the whole model before ZeRO 3 could share it out",
        "deepspeed: 2 with qlora, or method: lora with ZeRO 3",
        "transformers 5.19 `PreTrainedModel.get_init_context`; bitsandbytes issue 1249, peft issue 2016",
    ),
    Refusal(
        {"precision": ("fp16",), "device": ("cpu",)},
        "fp16 needs a GPU: few processors compute in it, and DeepSpeed refuses it on the rest",
        "precision: auto",
        "DeepSpeed 0.19 `CPU_Accelerator.is_fp16_supported`",
    ),
    Refusal(
        {"offload_optimizer": _OFFLOADED, "device": ("cpu",)},
        "offload_optimizer: without a GPU there is nothing to offload from",
        "leave it out",
        "ZeRO-Offload, arXiv 2101.06840",
    ),
    Refusal(
        {"offload_param": _OFFLOADED, "device": ("cpu",)},
        "offload_param: without a GPU there is nothing to offload from",
        "leave it out",
        "ZeRO-Infinity, arXiv 2104.07857",
    ),
    Refusal(
        {"offload_optimizer": _OFFLOADED, "stage": (0,)},
        "offload_optimizer: DeepSpeed offloads the optimizer from ZeRO 1 on",
        "deepspeed: 1, 2 or 3",
        "DeepSpeed 0.19 `DeepSpeedZeroOffloadOptimizerConfig`: valid with stage 1, 2 and 3",
    ),
    Refusal(
        {"offload_optimizer": ("nvme",), "stage": (1, 2)},
        "offload_optimizer: DeepSpeed swaps the optimizer to NVMe under ZeRO 3 alone",
        "deepspeed: 3, or offload to the processor's memory (cpu)",
        "DeepSpeed 0.19 `DeepSpeedEngine.zero_cpu_offload`: ZeRO 1 and 2 look for cpu alone",
    ),
    Refusal(
        {"offload_param": _OFFLOADED, "stage": (0, 1, 2)},
        "offload_param: parameters are partitioned, and so offloaded, under ZeRO 3 alone",
        "deepspeed: 3, or offload the optimizer alone",
        "DeepSpeed 0.19 `DeepSpeedZeroOffloadParamConfig`: valid only with stage 3",
    ),
)


def refusals(combination: Mapping[str, str | int | None]) -> list[Refusal]:
    """Every reason against a combination; none where it works.

    Args:
        combination: A value for each dimension; None, or one outside `DIMENSIONS` (``auto``), for what isn't known yet,
            against which nothing is held.
    """
    return [
        refusal
        for refusal in REFUSALS
        if all(combination.get(dimension) in values for dimension, values in refusal.when.items())
    ]


def as_markdown() -> str:
    """The table for readers: what each method and stage goes with, and the reasons against the rest."""
    columns: Mapping[str, Mapping[str, str | int]] = {
        "CPU": {"device": "cpu"},
        "GPU": {"device": "gpu"},
        "optimizer on cpu": {"device": "gpu", "offload_optimizer": "cpu"},
        "optimizer on nvme": {"device": "gpu", "offload_optimizer": "nvme"},
        "param on cpu": {"device": "gpu", "offload_param": "cpu"},
        "param on nvme": {"device": "gpu", "offload_param": "nvme"},
    }
    lines = ["| method, ZeRO stage | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in DIMENSIONS["method"]:
        for stage in DIMENSIONS["stage"]:
            cells = []
            for column in columns.values():
                found = refusals({"offload_optimizer": "none", "offload_param": "none", **column, "method": method,
                                  "stage": stage})  # fmt: skip
                cells.append(", ".join(f"{REFUSALS.index(refusal) + 1}" for refusal in found) or "✓")
            lines.append(f"| `{method}`, {stage} | " + " | ".join(cells) + " |")
    lines += ["", "| | refused where | why | instead | source |", "|---" * 5 + "|"]
    for number, refusal in enumerate(REFUSALS, 1):
        where = ", ".join(f"{key} {' or '.join(map(str, values))}" for key, values in refusal.when.items())
        lines.append(f"| {number} | {where} | {refusal.reason} | {refusal.remedy} | {refusal.source} |")
    return "\n".join(lines)
