"""Classification under real Ray Train and DeepSpeed, on two workers and tiny random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_embedder, write_llama

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import read_manifest
from tandem.config.cluster import Cluster
from tandem.specs.finetune import FinetuneSpec
from tandem.training import job
from tandem.training.classification.task import LabelledExamples

LABELS = ("dog", "fox", "tandem")
WORDS = {"dog": "lazy dog", "fox": "quick brown fox jumps", "tandem": "train and retrieve"}


def classify_spec(model: Path, rows: Path, **fields: Any) -> FinetuneSpec:
    schedule = {"max_steps": 40, "epochs": 100, "batch_size": 8, "micro_batch_size": 2, "max_length": 64}
    return FinetuneSpec.model_validate(
        {
            "kind": "finetune",
            "task": "classification",
            "name": "classes",
            "model": str(model),
            "data": {"train": str(rows), "eval_fraction": 0.25},
            "precision": "fp32",
            "workers": 2,
            "checkpoint": {"every_steps": 30},
            **fields,
            "schedule": schedule | fields.get("schedule", {}),
        }
    )


def job_context(cluster: Cluster, id: str) -> JobContext:
    folder = cluster.storage / "jobs" / id
    folder.mkdir(parents=True)
    return JobContext(id, "classes", folder, cluster.storage, cluster)


def texts(label: str) -> list[str]:
    return [f"{WORDS[label]} " * 4 + f"number {n}" + " question" * (n % 3) for n in range(16)]


def logits_of(model: Any, context: JobContext, pad_id: int) -> Any:
    import torch

    examples = LabelledExamples.load(context.dir / "eval-examples")
    ids, attention, _, _ = examples.collate(range(len(examples)), pad_id)
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=attention).logits.numpy()


def test_an_encoder_learns_classes_in_full_under_zero_3(ray_cluster: Cluster, tmp_path: Path) -> None:
    import mlflow
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    for label in LABELS:
        (tmp_path / "set" / label).mkdir(parents=True)
        for number, text in enumerate(texts(label)):
            (tmp_path / "set" / label / f"{number}.txt").write_text(text)
    context = job_context(ray_cluster, "classes-full")
    model = write_embedder(tmp_path / "bert")
    spec = classify_spec(
        model,
        tmp_path / "set",
        method="full",
        deepspeed=3,
        schedule={"learning_rate": 0.006, "max_steps": 60, "warmup": 0.2},
        early_stopping={"enabled": False},  # so that the last step's figures are those of what is saved
    )
    result = job.run(spec, context)
    folder = Path(result["artifact"])

    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.config.id2label == dict(enumerate(LABELS))
    engine = np.load(context.dir / job.LOGITS)
    pad_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    assert logits_of(loaded, context, pad_id) == pytest.approx(engine, abs=1e-4)

    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [LABELS.index(line["predicted"]) for line in lines] == engine.argmax(axis=1).tolist()
    right = sum(line["predicted"] == line["label"] for line in lines) / len(lines)
    assert result["accuracy"] == pytest.approx(right)
    assert right > 0.6  # a third is what chance gives
    assert result["accuracy_ci95"][0] < right <= result["accuracy_ci95"][1]

    manifest = read_manifest(folder)
    assert manifest.type == "model"
    assert {"evaluation.json", "confusion.png", "predictions.jsonl", "curve.png"} <= set(manifest.files)
    assert manifest.meta["task"] == "classification"
    assert manifest.meta["metrics"]["labels"] == list(LABELS)
    assert manifest.meta["data"]["labels"]["fox"] == {"train": 12, "eval": 4}
    client = mlflow.MlflowClient(tracking_uri=context.cluster.mlflow_uri)
    logged = client.get_run(result["mlflow_run"]).data.metrics
    assert logged["accuracy"] == pytest.approx(right)
    assert logged["eval_macro_f1"] == pytest.approx(logged["macro_f1"])
    assert {file.path for file in client.list_artifacts(result["mlflow_run"])} >= {"confusion.png", "evaluation.json"}


def test_an_adapter_on_a_decoder_that_cannot_pad_carries_its_head(ray_cluster: Cluster, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = write_llama(tmp_path / "llama")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(model)
    rows = [{"text": text, "label": number} for number, label in enumerate(LABELS) for text in texts(label)]
    rows = [row for row in rows if row["label"] != 2 or rows.index(row) % 4 == 0]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = job_context(ray_cluster, "classes-lora")
    spec = classify_spec(
        model,
        tmp_path / "rows.jsonl",
        method="lora",
        lora={"r": 4, "alpha": 8},
        class_weights="balanced",
        schedule={"learning_rate": 0.02},
    )
    result = job.run(spec, context)
    assert result["labels"] == ["0", "1", "2"]
    assert any("has no token to pad with: its eos_token" in note for note in result["notes"])
    assert result["macro_f1"] > 0.5

    saved = AutoTokenizer.from_pretrained(result["artifact"])
    assert saved.pad_token == saved.eos_token
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=3, pad_token_id=saved.pad_token_id)
    tuned = PeftModel.from_pretrained(base, result["artifact"])
    assert logits_of(tuned, context, saved.pad_token_id) == pytest.approx(np.load(context.dir / job.LOGITS), abs=1e-4)
