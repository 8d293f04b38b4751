"""What a finetune job leaves: weights, tokenizer, card, curve, records, spec; its manifest is written last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import write_manifest
from tandem.data.train_rows import SELECTION_ROWS, TRAIN_ROWS
from tandem.specs.finetune import FinetuneSpec
from tandem.training import metrics
from tandem.training.curve import draw_curve
from tandem.training.data.reuse import Prepared
from tandem.training.model_card import CARD, MERGED, base_license, model_card

METRICS = "metrics.jsonl"


def write_artifact(
    spec: FinetuneSpec,
    context: JobContext,
    *,
    model: Path,
    tokenizer: Any,
    prepared: Prepared,
    figures: Mapping[str, Any],
) -> Path:
    """Complete the folder into which the workers have written the weights.

    Args:
        spec: The job.
        context: Its folder has the records of the run.
        model: The base model's folder.
        tokenizer: As it was trained with, its chat template included.
        prepared: What is to be said of the data.
        figures: What the training came to.

    Returns:
        The folder.
    """
    folder = context.artifact_dir()
    tokenizer.save_pretrained(folder)
    shutil.copyfile(context.dir / METRICS, folder / METRICS)
    for name in (TRAIN_ROWS, SELECTION_ROWS):
        if (context.dir / name).is_file():  # a classifier's rows are compared by its own
            shutil.copyfile(context.dir / name, folder / name)
    (folder / "spec.json").write_text(json.dumps(spec.canonical(), indent=2, ensure_ascii=False) + "\n")
    draw_curve(metrics.steps(metrics.read(context.dir / METRICS)), folder / "curve.png")
    if spec.output.merge:
        context.progress("merge", 0, 1)
        merge_adapter(model, folder, folder / MERGED, tokenizer)
        context.progress("merge", 1, 1)
    license = base_license(model)
    card = model_card(
        spec,
        name=context.name,
        license=license,
        data=prepared.data,
        figures=figures,
        files={path.name for path in folder.iterdir()},
    )
    (folder / CARD).write_text(card, encoding="utf-8")
    write_manifest(
        folder,
        name=context.name,
        id=context.id,
        type="adapter" if spec.trains_adapter else "model",
        meta={
            "base_model": spec.model,
            "base_license": license,
            "task": spec.task,
            "method": spec.method,
            "retrieval": prepared.retrieval,
            "prompt": spec.prompt.canonical(),
            "data": prepared.data,
            "metrics": figures,
            "spec_sha256": spec.digest(),
        },
    )
    return folder


def merge_adapter(model: Path, adapter: Path, folder: Path, tokenizer: Any) -> None:
    """Write the base model with a LoRA adapter added into its weights: a model like any other.

    The sum is made in float32 and stored in the base's own type; the whole model is in this process's memory meanwhile.

    Args:
        model: Folder of a base model for generation.
        adapter: Folder of the adapter.
        folder: Where to.
        tokenizer: Goes with it.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    stored = AutoConfig.from_pretrained(model, trust_remote_code=False).dtype or torch.float32
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, trust_remote_code=False)
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    merged.to(stored).save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(str(folder))
