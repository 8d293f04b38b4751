"""What an adapter's files say of it, without loading it: its rank, and whether it fits a base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tandem.errors import ModelError

_PREFIX = "base_model.model."


def adapter_rank(adapter: Path) -> int:
    """The largest rank in a LoRA adapter's configuration.

    Raises:
        ModelError: Its adapter_config.json can't be read.
    """
    config = _config(adapter)
    try:
        return max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(adapter, error) from error


def check_fits(adapter: Path, model: Path) -> None:
    """Compare the shapes of an adapter's weights with the base model's, by their headers alone.

    vLLM copies a smaller matrix into a part of its own without a word. Weights that the base model has under another
    name, or packed, as when it is quantized, aren't compared.

    Args:
        adapter: A folder with a PEFT adapter in safetensors.
        model: A folder with the base model in safetensors.

    Raises:
        ModelError: It was trained on another model, or its weights can't be read.
    """
    if _config(adapter).get("fan_in_fan_out"):
        return
    base = {name: shape for file in sorted(model.glob("*.safetensors")) for name, shape in _shapes(file).items()}
    for name, shape in _shapes(adapter / "adapter_model.safetensors").items():
        module, _, part = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        expected = base.get(f"{module}.weight", ())
        if len(expected) != 2 or len(shape) != 2 or part not in ("lora_A", "lora_B"):
            continue
        # A is (r, in), B is (out, r), the base's (out, in).
        has, wanted = (shape[1], expected[1]) if part == "lora_A" else (shape[0], expected[0])
        if has != wanted:
            raise ModelError(
                f"not an adapter of this base model: {module} has {wanted} features there, {has} in the adapter",
                where=str(adapter),
                remedy=f"it must be trained on {model}",
            )


def _config(adapter: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text())
        return dict(config)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(adapter, error) from error


def _unreadable(adapter: Path, error: Exception) -> ModelError:
    return ModelError(
        f"not a LoRA adapter's configuration: {error}",
        where=str(adapter / "adapter_config.json"),
        remedy="give what a LoRA finetune job made",
    )


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights that can't be read: {error}", where=str(file), remedy="copy it again") from error
