"""The model that is trained: loaded, and given its adapter."""

from __future__ import annotations

from typing import Any

from tandem.specs.finetune import FinetuneSpec
from tandem.training.loop_config import LoopConfig
from tandem.training.tasks import Task


def load_model(config: LoopConfig, task: Task) -> Any:
    """The base model in float32, with a fresh adapter where the method is LoRA; the same on every worker.

    Args:
        config: The run.
        task: Gives the model its head.
    """
    import torch

    spec = config.spec
    torch.manual_seed(spec.schedule.seed)
    model = task.load_model(config.model, dtype=torch.float32)
    return _with_lora(model, spec, task) if spec.method == "lora" else model


def _with_lora(model: Any, spec: FinetuneSpec, task: Task) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = spec.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, **task.lora_options()
    )
    model = get_peft_model(model, config)
    # The adapter names the model as the spec does: this machine's path would mean nothing elsewhere.
    model.peft_config["default"].base_model_name_or_path = spec.model
    return model
