"""How many tokens a model can read: its positions, and what a scaling of its rotary embeddings makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tandem.errors import ModelError
from tandem.specs.finetune import FinetuneSpec

_UNLIMITED = 1_000_000_000  # tokenizers without a limit say 10^30


def read_config(path: Path) -> Any:
    """The model's configuration.

    Args:
        path: The model's folder, or its config.json.

    Raises:
        ModelError: transformers can't read it, or knows no such model.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (ValueError, KeyError, OSError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"its config.json can't be used: {first}", where=str(path), remedy="choose a model that transformers has"
        ) from None


def position_limit(config: Any) -> int | None:
    """The longest sequence, in tokens; None where the model has no limit (ALiBi, state spaces).

    Learnt positions end where their table ends. Rotary ones go on beyond what was trained, and only a scaling that
    the configuration names (linear, dynamic, YaRN, …) makes that useful: then its factor counts.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0 or getattr(text, "alibi", False):
        return None
    return max([positions, *(_reach(scaling, positions) for scaling in _scalings(text))])


def check_max_length(spec: FinetuneSpec, config: Any, tokenizer: Any = None) -> None:
    """See that the model can read rows of `schedule.max_length` tokens.

    Args:
        spec: The job.
        config: The model's.
        tokenizer: Where its own limit counts too: encoders such as RoBERTa keep a few positions for themselves, and
            only the tokenizer knows. Those of decoders often name less than the model reads.

    Raises:
        ModelError: It reads fewer.
    """
    limits = [position_limit(config), None if tokenizer is None else tokenizer.model_max_length]
    known = [int(limit) for limit in limits if limit is not None and limit < _UNLIMITED]
    if known and spec.schedule.max_length > min(known):
        raise ModelError(
            f"schedule.max_length is {spec.schedule.max_length}, and the model reads at most {min(known)} tokens",
            where=spec.model,
            remedy=f"set schedule.max_length={min(known)} or less",
        )


def _scalings(text: Any) -> Iterator[Mapping[str, Any]]:
    parameters = getattr(text, "rope_parameters", None) or {}
    # One for all layers, or one for each kind of layer.
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from nested or [parameters]


def _reach(scaling: Mapping[str, Any], positions: int) -> int:
    factor = scaling.get("factor")
    if scaling.get("rope_type", "default") == "default" or not isinstance(factor, int | float):
        return positions
    return int(factor * (scaling.get("original_max_position_embeddings") or positions))
