"""The DeepSpeed configuration of a run: from the spec, or a plain DeepSpeed JSON taken as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import SpecError
from tandem.specs.finetune import FinetuneSpec

AUTO = "auto"
_QUIET = 1_000_000_000  # steps between DeepSpeed's own progress lines: ours say more


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


def build_config(spec: FinetuneSpec, plain: Mapping[str, Any] | None, hardware: Hardware) -> dict[str, Any]:
    """The dict for ``deepspeed.initialize``.

    A plain JSON is taken as it is: what it leaves out, or says is ``"auto"``, comes from the spec.

    Args:
        spec: The job.
        plain: What `read_plain` returned.
        hardware: Of the workers.

    Raises:
        SpecError: The JSON contradicts the spec, or asks for what the hardware can't do; all faults in one message.
    """
    ours = _from_spec(spec, hardware)
    if plain is None:
        return ours
    faults = conflicts(spec, plain, hardware)
    if faults:
        raise SpecError(
            "; ".join(fault.what for fault in faults),
            where=faults[0].where,
            remedy='write "auto" in the JSON for what the spec says, or change one of the two',
        )
    config = _filled({key: value for key, value in plain.items() if key != "scheduler"}, ours)
    if "scheduler" in plain and not _has_auto(plain["scheduler"]):
        config["scheduler"] = plain["scheduler"]  # DeepSpeed's then, in place of the spec's; with "auto" in it, ours
    config.setdefault("zero_optimization", {"stage": 0})
    optimizer = config["optimizer"]
    if not hardware.cuda and optimizer.get("type") in ("Adam", "AdamW"):
        # DeepSpeed's own Adam is compiled for GPUs; on a processor it would be built for nothing.
        config["optimizer"] = {**optimizer, "params": {**optimizer.get("params", {}), "torch_adam": True}}
    return config


def conflicts(spec: FinetuneSpec, plain: Mapping[str, Any], hardware: Hardware) -> list[SpecError]:
    """Every point in which a plain DeepSpeed JSON contradicts the spec or the hardware."""
    where = str(spec.deepspeed)
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
        stated.append(("enabled", _mapping(plain, "bf16"), f"precision ({spec.precision})", spec.precision == "bf16"))
    faults = [
        SpecError(f"{key} is {values[key]} in the DeepSpeed JSON, and {name} says {wanted}", where=where)
        for key, values, name, wanted in stated
        if key in values and values[key] not in (AUTO, wanted)
    ]
    if not hardware.cuda:
        if _mapping(plain, "fp16").get("enabled") is True:
            faults.append(SpecError("fp16 needs a GPU: processors compute in bf16 or fp32", where=where))
        zero = _mapping(plain, "zero_optimization")
        offload = [key for key in ("offload_optimizer", "offload_param") if _mapping(zero, key).get("device") == "cpu"]
        faults += [SpecError(f"{key}: without a GPU there is nothing to offload from", where=where) for key in offload]
    return faults


def _accumulation(spec: FinetuneSpec) -> int:
    return spec.schedule.batch_size // (spec.schedule.micro_batch_size * spec.workers)


def _from_spec(spec: FinetuneSpec, hardware: Hardware) -> dict[str, Any]:
    schedule = spec.schedule
    adam: dict[str, Any] = {"lr": schedule.learning_rate, "weight_decay": schedule.weight_decay}
    if not hardware.cuda:
        adam["torch_adam"] = True
    stage = spec.deepspeed if isinstance(spec.deepspeed, int) else 0
    return {
        "train_batch_size": schedule.batch_size,
        "train_micro_batch_size_per_gpu": schedule.micro_batch_size,
        "gradient_accumulation_steps": _accumulation(spec),
        "gradient_clipping": schedule.gradient_clipping,
        "bf16": {"enabled": hardware.bf16 if spec.precision == AUTO else spec.precision == "bf16"},
        "zero_optimization": {"stage": stage, "overlap_comm": hardware.cuda},
        "optimizer": {"type": "AdamW", "params": adam},
        "steps_per_print": _QUIET,
    }


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
