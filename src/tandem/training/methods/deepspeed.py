"""The DeepSpeed configuration of a run: from the spec, or a plain DeepSpeed JSON taken as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import SpecError
from tandem.specs.combinations import refusals
from tandem.specs.finetune import FinetuneSpec, ScheduleSpec

AUTO = "auto"
_QUIET = 1_000_000_000  # steps between DeepSpeed's own progress lines: ours say more
# Elements that ZeRO reduces and gathers at once. With DeepSpeed's own 500 million, the buffers would take 2 GB of every
# GPU, more than all that a LoRA adapter needs.
BUCKET = 50_000_000


@dataclass(frozen=True)
class Hardware:
    """What a worker computes on.

    Args:
        cuda: On a GPU.
        bf16: In bfloat16, in hardware: where it is emulated it is slower than float32.
    """

    cuda: bool
    bf16: bool


def read_plain(spec: FinetuneSpec) -> dict[str, Any] | None:
    """The DeepSpeed JSON that the spec names; None where it names a stage.

    Raises:
        SpecError: There is no such file, or it isn't a JSON object.
    """
    if isinstance(spec.deepspeed, int):
        return None
    path = Path(spec.deepspeed).expanduser().absolute()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(
            f"deepspeed: no file {spec.deepspeed}",
            where=str(path),
            remedy="give a DeepSpeed JSON, or a stage from 0 to 3",
        ) from None
    except json.JSONDecodeError as error:
        raise SpecError(f"deepspeed: not JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    if not isinstance(data, dict):
        raise SpecError("deepspeed: not a JSON object", where=str(path))
    return data


def faults_of(spec: FinetuneSpec) -> list[SpecError]:
    """What is wrong with the DeepSpeed JSON that a spec names, as far as can be told without the hardware."""
    try:
        plain = read_plain(spec)
    except SpecError as error:
        return [error]
    return conflicts(spec, plain) if plain is not None else []


def build_config(spec: FinetuneSpec, plain: Mapping[str, Any] | None, hardware: Hardware) -> dict[str, Any]:
    """The dict for ``deepspeed.initialize``.

    A plain JSON is taken as it is: what it leaves out, or says is ``"auto"``, comes from the spec. So do learning rate
    and weight decay of an optimizer that doesn't say them; all else of it that is left out is DeepSpeed's or torch's.

    Args:
        spec: The job.
        plain: What `read_plain` returned.
        hardware: Of the workers.

    Raises:
        SpecError: The JSON contradicts the spec, or asks for what the hardware can't do; all faults in one message.
    """
    faults = conflicts(spec, plain, hardware)
    if faults:
        raise SpecError(
            "; ".join(fault.what for fault in faults),
            where=faults[0].where,
            remedy="; ".join(dict.fromkeys(fault.remedy for fault in faults if fault.remedy)),
        )
    ours = _from_spec(spec, plain, hardware)
    if plain is None:
        return ours
    config = _filled({key: value for key, value in plain.items() if key != "scheduler"}, ours)
    if "scheduler" in plain and not _has_auto(plain["scheduler"]):
        config["scheduler"] = plain["scheduler"]  # DeepSpeed's then, in place of the spec's; with "auto" in it, ours
    config.setdefault("zero_optimization", {"stage": 0})
    optimizer = config["optimizer"]
    params = {key: ours["optimizer"]["params"][key] for key in ("lr", "weight_decay")} | optimizer.get("params", {})
    if not hardware.cuda and optimizer.get("type") in ("Adam", "AdamW"):
        # DeepSpeed's own is compiled for GPUs; on a processor it would be built for nothing.
        params["torch_adam"] = True
    config["optimizer"] = {**optimizer, "params": params}
    return config


def conflicts(spec: FinetuneSpec, plain: Mapping[str, Any] | None, hardware: Hardware | None = None) -> list[SpecError]:
    """Every point in which a plain DeepSpeed JSON contradicts the spec, and what can't be combined.

    Args:
        spec: The job.
        plain: What `read_plain` returned.
        hardware: Of the workers; None while it isn't known.
    """
    faults = _contradictions(spec, plain) if plain is not None else []
    where = str(spec.deepspeed) if plain is not None else None
    found = refusals(combination(spec, plain, hardware))
    return faults + [SpecError(refusal.reason, where=where, remedy=refusal.remedy) for refusal in found]


def combination(
    spec: FinetuneSpec, plain: Mapping[str, Any] | None, hardware: Hardware | None
) -> dict[str, str | int | None]:
    """What a run combines, in the dimensions of `tandem.specs.combinations`; None for what isn't known."""
    combined = spec.combination()
    if hardware is not None:
        combined["device"] = "gpu" if hardware.cuda else "cpu"
    if plain is None:
        return combined
    zero = _mapping(plain, "zero_optimization")
    stage = zero.get("stage", 0)
    stated = [name for name in ("bf16", "fp16") if _mapping(plain, name).get("enabled") is True]
    return combined | {
        "stage": stage if isinstance(stage, int) else None,
        "offload_optimizer": _mapping(zero, "offload_optimizer").get("device", "none"),
        "offload_param": _mapping(zero, "offload_param").get("device", "none"),
        "precision": stated[0] if stated else combined["precision"],
    }


def _contradictions(spec: FinetuneSpec, plain: Mapping[str, Any]) -> list[SpecError]:
    schedule = spec.schedule
    params = _mapping(_mapping(plain, "optimizer"), "params")
    stated = [
        ("train_batch_size", plain, "schedule.batch_size", schedule.batch_size),
        ("train_micro_batch_size_per_gpu", plain, "schedule.micro_batch_size", schedule.micro_batch_size),
        ("gradient_accumulation_steps", plain, "batch_size / (micro_batch_size × workers)", _accumulation(spec)),
        ("gradient_clipping", plain, "schedule.gradient_clipping", schedule.gradient_clipping),
        ("lr", params, "schedule.learning_rate", schedule.learning_rate),
        ("weight_decay", params, "schedule.weight_decay", schedule.weight_decay),
    ]
    if spec.precision != AUTO:
        stated += [
            ("enabled", _mapping(plain, name), f"precision ({spec.precision})", spec.precision == name)
            for name in ("bf16", "fp16")
        ]
    faults = [
        SpecError(
            f"{key} is {values[key]} in the DeepSpeed JSON, and {name} says {wanted}",
            where=str(spec.deepspeed),
            remedy='write "auto" in the JSON for what the spec says, or change one of the two',
        )
        for key, values, name, wanted in stated
        if key in values and values[key] not in (AUTO, wanted)
    ]
    replaced = [name for name in ("scheduler", "warmup") if getattr(schedule, name) != _default(name)]
    if replaced and "scheduler" in plain and not _has_auto(plain["scheduler"]):
        faults.append(
            SpecError(
                f"the DeepSpeed JSON has a scheduler of its own, and the spec says schedule.{replaced[0]}",
                where=str(spec.deepspeed),
                remedy="leave out one of the two",
            )
        )
    return faults


def _default(name: str) -> Any:
    return ScheduleSpec.model_fields[name].default


def _accumulation(spec: FinetuneSpec) -> int:
    return spec.schedule.batch_size // (spec.schedule.micro_batch_size * spec.max_workers)


def _from_spec(spec: FinetuneSpec, plain: Mapping[str, Any] | None, hardware: Hardware) -> dict[str, Any]:
    schedule = spec.schedule
    # A JSON that asks for fp16 decides where the spec leaves it to the hardware: DeepSpeed takes only one of the two.
    precision = combination(spec, plain, hardware)["precision"] or ("bf16" if hardware.bf16 else "fp32")
    return {
        "train_batch_size": schedule.batch_size,
        "train_micro_batch_size_per_gpu": schedule.micro_batch_size,
        "gradient_accumulation_steps": _accumulation(spec),
        "gradient_clipping": schedule.gradient_clipping,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},  # with DeepSpeed's dynamic loss scaling
        "zero_optimization": _zero(spec, hardware),
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": schedule.learning_rate, "weight_decay": schedule.weight_decay, **_adam(spec, hardware)},
        },
        "steps_per_print": _QUIET,
    }


def _zero(spec: FinetuneSpec, hardware: Hardware) -> dict[str, Any]:
    stage = spec.deepspeed if isinstance(spec.deepspeed, int) else 0
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": hardware.cuda}
    if stage:
        zero["reduce_bucket_size"] = BUCKET
    if stage in (1, 2):
        zero["allgather_bucket_size"] = BUCKET
    for key, device in (("offload_optimizer", spec.offload.optimizer), ("offload_param", spec.offload.param)):
        if device != "none":
            # Pinned memory, so that copies run beside the arithmetic.
            zero[key] = {"device": device, "pin_memory": hardware.cuda}
            if device == "nvme":
                zero[key]["nvme_path"] = spec.offload.nvme_path
    return zero


def _adam(spec: FinetuneSpec, hardware: Hardware) -> dict[str, Any]:
    """Which AdamW: none of them asks for a CUDA compiler on the workers, as DeepSpeed's FusedAdam does."""
    if spec.offload.optimizer != "none":
        return {}  # DeepSpeed's own for processors, the one that ZeRO-Offload takes
    return {"torch_adam": True, "fused": True} if hardware.cuda else {"torch_adam": True}


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def _has_auto(value: Any) -> bool:
    return any(_has_auto(inner) for inner in value.values()) if isinstance(value, Mapping) else value == AUTO


def _filled(plain: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """`plain` with its gaps filled at the top, and each "auto" wherever ours has a value for it."""
    filled = {key: value for key, value in ours.items() if key not in plain and key != "zero_optimization"}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            filled[key] = _without_auto(value, ours.get(key))
        elif value == AUTO:
            if key in ours:
                filled[key] = ours[key]
        else:
            filled[key] = value
    return filled


def _without_auto(value: Mapping[str, Any], ours: Any) -> dict[str, Any]:
    known = ours if isinstance(ours, Mapping) else {}
    result: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            result[key] = _without_auto(inner, known.get(key))
        elif inner != AUTO:
            result[key] = inner
        elif key in known:
            result[key] = known[key]
        # else: "auto" for something that we don't decide is DeepSpeed's own default.
    return result
