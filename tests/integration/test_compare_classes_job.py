"""A comparison of classifiers with nothing faked but the weights: training, embedder, language model, MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
from tiny_models import write_embedder, write_llama

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import read_manifest
from tandem.config.cluster import Cluster
from tandem.evaluation import job as compare_job
from tandem.evaluation.schema import Report
from tandem.specs.compare import CompareSpec
from tandem.specs.finetune import FinetuneSpec
from tandem.training import job as finetune_job

WORDS = {"dog": "lazy dog", "fox": "quick brown fox jumps", "tandem": "train and retrieve"}
ARMS = ("base", "rag", "tuned", "tuned_rag")


def context(cluster: Cluster, name: str) -> JobContext:
    folder = cluster.storage / "jobs" / f"{name}-1"
    folder.mkdir(parents=True, exist_ok=True)
    return JobContext(f"{name}-1", name, folder, cluster.storage, cluster)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("classes")
    for label, words in WORDS.items():
        (root / "set" / label).mkdir(parents=True)
        for number in range(16):
            text = f"{words} " * 4 + f"number {number}" + " question" * (number % 3)
            (root / "set" / label / f"{number}.txt").write_text(text)
    return {"rows": root / "set", "llama": write_llama(root / "llama"), "bert": write_embedder(root / "bert")}


def train(cluster: Cluster, models: dict[str, Path], base: str, **fields: Any) -> Path:
    schedule = {"max_steps": 40, "epochs": 100, "batch_size": 8, "micro_batch_size": 4, "max_length": 64}
    values: dict[str, Any] = {
        "kind": "finetune",
        "task": "classification",
        "name": f"classes-{base}",
        "model": str(models[base]),
        "data": {"train": str(models["rows"]), "eval_fraction": 0.25},
        "precision": "fp32",
        "checkpoint": {"every_steps": 40},
        "early_stopping": {"enabled": False},
        **fields,
        "schedule": schedule | fields["schedule"],
    }
    spec = FinetuneSpec.model_validate(values)
    return Path(finetune_job.run(spec, context(cluster, spec.name))["artifact"])


def spec(models: dict[str, Path], classifier: str, **changes: Any) -> CompareSpec:
    values: dict[str, Any] = {
        "kind": "compare",
        "task": "classification",
        "name": "compare-classes",
        "model": str(models["llama"]),
        "classifier": classifier,
        "arms": ARMS,
        "train": str(models["rows"]),
        "neighbours": {"embedder": {"model": str(models["bert"])}, "k": 3},
        "bootstrap": 100,
        "engine": {"max_model_len": 512},
    }
    return CompareSpec.model_validate(values | changes)


def predictions(report: Path, arm: str) -> dict[str, str]:
    rows = pq.read_table(report / "items.parquet").to_pylist()
    return {row["id"]: row["prediction"] for row in rows if row["arm"] == arm}


def written(artifact: Path) -> dict[str, str]:
    import json

    lines = map(json.loads, (artifact / "predictions.jsonl").read_text().splitlines())
    return {line["id"]: line["predicted"] for line in lines}


def test_four_arms_on_what_training_held_out(ray_cluster: Cluster, models: dict[str, Path]) -> None:
    artifact = train(
        ray_cluster, models, "bert", method="full", schedule={"learning_rate": 0.006, "max_steps": 60, "warmup": 0.2}
    )
    job = context(ray_cluster, "compare-classes")
    result = compare_job.run(spec(models, "artifact:classes-bert", engine={"dtype": "float32"}), job)
    folder = Path(result["report"])
    report = Report.model_validate_json((folder / "report.json").read_text())
    assert {name: (arm.n, arm.failures) for name, arm in report.arms.items()} == dict.fromkeys(ARMS, (12, 0))
    # The very texts and answers of the training's own evaluation.
    assert predictions(folder, "tuned") == written(artifact)
    assert report.dataset.train["train"] == report.dataset.train["classifier"] is not None
    assert report.dataset.leaked == 0
    assert report.notes == ()
    tuned = read_manifest(artifact).meta["metrics"]["accuracy"]
    assert report.arms["tuned"].metrics["accuracy"] == pytest.approx(tuned)
    # Mean vectors of random words still know words again.
    assert (report.arms["rag"].metrics["neighbour_accuracy"] or 0.0) > 0.8
    assert (report.arms["tuned_rag"].metrics["accuracy"] or 0.0) >= tuned
    assert report.arms["rag"].tokens.prompt > 2 * report.arms["base"].tokens.prompt
    assert report.arms["tuned"].cost.train
    assert report.slices["label"]["fox"]["tuned"].n == 4
    assert (folder / "report.html").stat().st_size

    run = mlflow.MlflowClient(ray_cluster.mlflow_uri).get_run(result["mlflow_run"])
    assert run.data.metrics["tuned.macro_f1"] == pytest.approx(report.arms["tuned"].metrics["macro_f1"])


def test_an_adapter_on_a_decoder_answers_as_in_its_training(ray_cluster: Cluster, models: dict[str, Path]) -> None:
    artifact = train(
        ray_cluster, models, "llama", method="lora", lora={"r": 4, "alpha": 8}, schedule={"learning_rate": 0.02}
    )
    job = context(ray_cluster, "compare-adapter")
    changes = {"arms": ["base", "tuned"], "engine": {"dtype": "float32", "max_model_len": 512}}
    result = compare_job.run(spec(models, "artifact:classes-llama", **changes), job)
    assert predictions(Path(result["report"]), "tuned") == written(artifact)
