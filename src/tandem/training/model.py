"""The model that is trained: loaded, and given its adapter."""

from __future__ import annotations

from typing import Any

from tandem.specs.finetune import FinetuneSpec
from tandem.training.loop_config import LoopConfig


def load_model(config: LoopConfig) -> Any:
    """The base model in float32, with a fresh adapter where the method is LoRA; the same on every worker.

    Args:
        config: The run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    spec = config.spec
    torch.manual_seed(spec.schedule.seed)
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32, trust_remote_code=False)
    return _with_lora(model, spec) if spec.method == "lora" else model


def _with_lora(model: Any, spec: FinetuneSpec) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = spec.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    # The adapter names the model as the spec does: this machine's path would mean nothing elsewhere.
    model.peft_config["default"].base_model_name_or_path = spec.model
    return model
