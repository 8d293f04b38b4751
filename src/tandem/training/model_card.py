"""The model card of an artifact: what it is, what it learnt from, how good it is, how to load it.

A README.md with front matter as the Hugging Face hub reads it (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tandem.specs.finetune import FinetuneSpec

CARD = "README.md"
MERGED = "merged"
_FIGURES = {
    "eval_loss": "loss on the held-out rows (nats per loss-carrying token)",
    "train_loss": "training loss, mean of the last steps",
    "accuracy": "accuracy on the held-out rows",
    "macro_f1": "macro-F1 on the held-out rows",
    "steps": "optimizer steps",
    "weights_step": "the step whose weights these are",
    "stopped_early": "stopped early",
    "tokens": "tokens seen",
    "trainable_parameters": "trained parameters",
    "seconds": "seconds of the last attempt",
    "cpu_s": "CPU-seconds of all attempts",
    "gpu_s": "GPU-seconds of all attempts",
    "workers": "workers",
    "precision": "precision",
}


def base_license(model: Path) -> str | None:
    """The licence that a base model names in its config.json or in the front matter of its README.md."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    named = config.get("license")
    readme = model / "README.md"
    if named is None and readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---\n") and "\n---" in text[4:]:
            try:
                front = yaml.safe_load(text[4 : text.index("\n---", 4)])
            except yaml.YAMLError:
                front = None  # somebody else's card: what it says can't be told
            named = front.get("license") if isinstance(front, dict) else None
    return named if isinstance(named, str) and named.strip() else None


def model_card(
    spec: FinetuneSpec,
    *,
    name: str,
    license: str | None,
    data: Mapping[str, Any],
    figures: Mapping[str, Any],
    files: set[str],
) -> str:
    """The card's text.

    Args:
        spec: The job.
        name: Of the job.
        license: Of the base model; None where it says none.
        data: Counts and hash of the rows (see `Prepared.data`).
        figures: What the training came to.
        files: Names of the files that lie beside the card.
    """
    front: dict[str, Any] = {
        "base_model": spec.model,
        "library_name": "peft" if spec.trains_adapter else "transformers",
        "pipeline_tag": "text-generation" if spec.task == "generation" else "text-classification",
        "tags": ["ray-tandem", spec.method],
    }
    if license is not None:
        front["license"] = license
    kind = "A LoRA adapter for" if spec.trains_adapter else "Fine-tuned from"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {name}\n",
        f"{kind} `{spec.model}` ({spec.task}, {_method(spec)}).\n",
        f"Licence of the base model: {license or 'its files name none; ask its publisher'}.\n",
        "## How to load it\n",
        f"```python\n{_loading(spec)}\n```\n",
        "## Data\n",
        _table({**_data(spec, data)}),
        "## Figures\n",
        _table({label: figures[key] for key, label in _FIGURES.items() if figures.get(key) is not None}),
    ]
    if "curve.png" in files:
        parts.append("![loss over the steps](curve.png)\n")
    if "confusion.png" in files:
        parts.append("![confusion matrix](confusion.png)\n")
    parts += ["## Spec\n", f"```json\n{json.dumps(spec.canonical(), indent=2, ensure_ascii=False)}\n```\n"]
    return "\n".join(parts)


def _method(spec: FinetuneSpec) -> str:
    if not spec.trains_adapter:
        return "all weights"
    lora = spec.lora
    where = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    return f"{spec.method}, rank {lora.r}, alpha {lora.alpha}, on {where}"


def _data(spec: FinetuneSpec, data: Mapping[str, Any]) -> dict[str, Any]:
    named = {
        "rows trained on": data.get("train_rows"),
        "rows held out": data.get("eval_rows"),
        "rows set aside": data.get("quarantined"),
        "rows left out since they are held out too": data.get("leaked"),
        "tokens of the training rows": data.get("train_tokens"),
        "SHA-256 of the training rows": data.get("train_sha256"),
        "collection of the retrieved passages": spec.retrieval.collection if spec.retrieval else None,
    }
    return {key: value for key, value in named.items() if value is not None}


def _loading(spec: FinetuneSpec) -> str:
    kind = "AutoModelForCausalLM" if spec.task == "generation" else "AutoModelForSequenceClassification"
    if not spec.trains_adapter:
        return (
            f"from transformers import {kind}, AutoTokenizer\n\n"
            f"model = {kind}.from_pretrained(FOLDER)\ntokenizer = AutoTokenizer.from_pretrained(FOLDER)"
        )
    merged = f"\n# or, with the adapter already in it:\nmodel = {kind}.from_pretrained(f'{{FOLDER}}/{MERGED}')"
    base = (
        f"{kind}.from_pretrained(BASE)"
        if spec.task == "generation"
        else f"{kind}.from_pretrained(BASE, num_labels=NUMBER_OF_LABELS, pad_token_id=tokenizer.pad_token_id)"
    )
    return (
        f"from peft import PeftModel\nfrom transformers import {kind}, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained(FOLDER)\nbase = {base}  # BASE: {spec.model}\n"
        f"model = PeftModel.from_pretrained(base, FOLDER)" + (merged if spec.output.merge else "")
    )


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {_shown(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
