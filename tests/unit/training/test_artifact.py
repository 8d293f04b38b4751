from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins.world import make_cluster
from tiny_models import write_adapter

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import read_manifest
from tandem.data.train_rows import SELECTION_ROWS, TRAIN_ROWS
from tandem.specs.finetune import FinetuneSpec
from tandem.training import metrics
from tandem.training.artifact import METRICS, write_artifact
from tandem.training.data.reuse import Prepared


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    folder = tmp_path / "jobs" / "t-1"
    folder.mkdir(parents=True)
    for step in range(1, 4):
        metrics.append(folder / METRICS, {"step": step, "loss": 1.0 / step})
    return JobContext("t-1", "t", folder, tmp_path, make_cluster(tmp_path))


def written(context: JobContext, model: Path, tokenizer: Any, **fields: Any) -> Path:
    spec = FinetuneSpec.model_validate(
        {"kind": "finetune", "name": "t", "model": "m", "data": {"train": "t.jsonl"}, **fields}
    )
    prepared = Prepared(context.dir, None, 1, {"train_rows": 3, "train_sha256": "abc"}, None)
    write_adapter(context.artifact_dir(), model)
    return write_artifact(
        spec, context, model=model, tokenizer=tokenizer, prepared=prepared, figures={"train_loss": 0.5}
    )


def test_an_artifact_is_whole_and_its_manifest_names_every_file(
    context: JobContext, tiny_model_path: Path, tokenizer: Any
) -> None:
    folder = written(context, tiny_model_path, tokenizer)
    files = set(read_manifest(folder).files)
    assert files == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
    assert {"README.md", "curve.png", "metrics.jsonl", "spec.json", "tokenizer.json", "chat_template.jinja"} <= files
    assert not any(name.startswith("merged") or name == TRAIN_ROWS for name in files)
    assert "| SHA-256 of the training rows | abc |" in (folder / "README.md").read_text()


def test_what_was_trained_on_goes_with_the_artifact(context: JobContext, tiny_model_path: Path, tokenizer: Any) -> None:
    for name in (TRAIN_ROWS, SELECTION_ROWS):
        (context.dir / name).write_text(name)
    folder = written(context, tiny_model_path, tokenizer)
    for name in (TRAIN_ROWS, SELECTION_ROWS):
        assert (folder / name).read_text() == name
        assert name in read_manifest(folder).files


def test_merged_weights_compute_what_base_and_adapter_compute(
    context: JobContext, tiny_model_path: Path, tokenizer: Any
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = written(context, tiny_model_path, tokenizer, output={"merge": True})
    assert "merged/model.safetensors" in read_manifest(folder).files
    ids = torch.tensor([[5, 6, 7, 8]])
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    plain = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, folder)(input_ids=ids).logits
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged")(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=0)
    assert (adapted - plain).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(folder / "merged").chat_template == tokenizer.chat_template
