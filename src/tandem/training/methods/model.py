"""The model that is trained: loaded, and given its adapter."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from tandem.errors import InputError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.loop_config import LoopConfig
from tandem.training.tasks import Task


def load_model(config: LoopConfig, task: Task, settings: dict[str, Any]) -> Any:
    """The base model, with a fresh adapter where the method is LoRA or QLoRA; the same on every worker.

    Under ZeRO 3 its parameters are partitioned while it is built (``deepspeed.zero.Init``), and one after the other
    filled from the safetensors file, which is mapped: no worker ever holds the whole model.

    Args:
        config: The run.
        task: Gives the model its head.
        settings: DeepSpeed's configuration, of a process group that is there.
    """
    import torch

    spec = config.spec
    torch.manual_seed(spec.schedule.seed)
    # As DeepSpeed computes: it would cast the weights before it copies them for its optimizer, and load twice as much.
    options = _quantized(settings) if spec.method == "qlora" else {"dtype": compute_dtype(settings)}
    partitioned = _announce_zero3(settings)
    model = task.load_model(config.model, **options)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if spec.trains_adapter:
        model = with_adapter(model, spec, task.lora_options())
    # transformers and PEFT know of ZeRO 3 by a weak reference to this: it lives as long as the model.
    model.hf_deepspeed_config = partitioned
    return model


def check_quantization() -> None:
    """That the library which QLoRA needs is there.

    Raises:
        InputError: It isn't installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InputError(
            "qlora needs bitsandbytes, which isn't installed",
            where="method",
            remedy="install ray-tandem[qlora] on the cluster, or choose method: lora",
        )


def compute_dtype(settings: dict[str, Any]) -> Any:
    """The torch dtype of weights and activations under a DeepSpeed configuration."""
    import torch

    if settings.get("bf16", {}).get("enabled"):
        return torch.bfloat16
    return torch.float16 if settings.get("fp16", {}).get("enabled") else torch.float32


def _announce_zero3(settings: dict[str, Any]) -> Any:
    if settings["zero_optimization"].get("stage") != 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(settings)


def _quantized(settings: dict[str, Any]) -> dict[str, Any]:
    """Linear layers in 4-bit NormalFloat with double quantization (QLoRA: Dettmers et al., arXiv 2305.14314)."""
    import torch
    from transformers import BitsAndBytesConfig

    dtype = compute_dtype(settings)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"dtype": dtype, "quantization_config": quantization, "device_map": {"": torch.cuda.current_device()}}


def with_adapter(model: Any, spec: FinetuneSpec, options: dict[str, Any]) -> Any:
    """A model whose base is frozen under a fresh LoRA adapter, as PEFT makes it.

    Args:
        model: Of transformers.
        spec: Says rank, scale and which layers.
        options: What PEFT's LoraConfig is told of the task.
    """
    from peft import LoraConfig, get_peft_model

    lora = spec.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, **options)
    model = get_peft_model(model, config)
    # The adapter names the model as the spec does: this machine's path would mean nothing elsewhere.
    model.peft_config["default"].base_model_name_or_path = spec.model
    return model
