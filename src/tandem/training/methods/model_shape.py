"""A model's shape from its config.json: built on torch's meta device, where tensors have sizes and no memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tandem.errors import ModelError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.methods.memory import ModelShape
from tandem.training.methods.model import with_adapter

GATES = ("gate_proj", "gate_up_proj")


def read_shape(config: Path, spec: FinetuneSpec) -> ModelShape:
    """Count without weights.

    Args:
        config: The model's config.json.
        spec: Says what is trained; an adapter is counted as PEFT would make it.

    Raises:
        ModelError: transformers knows no such model, or PEFT can't adapt it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    classes = spec.task == "classification"
    kind = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    try:
        described = AutoConfig.from_pretrained(config, trust_remote_code=False)
        with torch.device("meta"):
            model = kind.from_config(described, trust_remote_code=False)
            base = _count(model)
            shapes = _layers(model, None if classes else model.get_output_embeddings())
            if spec.trains_adapter:
                model = with_adapter(model, spec, {"task_type": "SEQ_CLS" if classes else "CAUSAL_LM"})
    except (ValueError, KeyError, OSError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"its shape can't be read: {first}", where=str(config)) from None
    text = described.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelShape(
        parameters=base,
        adapter=sum(p.numel() for p in model.parameters() if p.requires_grad) if spec.trains_adapter else 0,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=heads * width,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * width,
        feed_forward=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size,
        outputs=0 if classes else text.vocab_size,  # one row of classes for a whole text is nothing
        **shapes,
    )


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _layers(model: Any, head: Any) -> dict[str, Any]:
    import torch
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    own = [sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()]
    linear = [
        module for module in model.modules() if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]
    return {
        "largest_layer": max(own),
        "quantizable": sum(module.weight.numel() for module in linear),
        "gated": any(name.endswith(GATES) for name, _ in model.named_modules()),
    }
