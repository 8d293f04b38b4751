"""A comparison with nothing faked but the weights: embedded store, embedder, engine, adapter, MLflow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
from tiny_models import write_adapter, write_embedder, write_llama

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import read_manifest
from tandem.config.cluster import Cluster
from tandem.errors import NotFoundError
from tandem.evaluation import job as compare_job
from tandem.evaluation.asking.placing import in_a_task
from tandem.evaluation.schema import Report
from tandem.evaluation.tools import real_tools
from tandem.retrieval import job as index_job
from tandem.specs.compare import CompareSpec
from tandem.specs.index import IndexSpec

FILE = "report.json"
CITIES = ["Alba", "Brno", "Cork", "Dakar", "Essen", "Fes", "Graz", "Hull"]


def context(cluster: Cluster, name: str) -> JobContext:
    folder = cluster.storage / "jobs" / f"{name}-1"
    folder.mkdir(parents=True, exist_ok=True)
    return JobContext(f"{name}-1", name, folder, cluster.storage, cluster)


@pytest.fixture(scope="module")
def corpus(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    docs = root / "docs"
    docs.mkdir()
    rows = []
    for number, city in enumerate(CITIES):
        (docs / f"{city.lower()}.md").write_text(f"# {city}\n\nThe bridge of {city} has {number + 3} arches.\n")
        rows.append(
            {
                "id": city,
                "question": f"How many arches has the bridge of {city}?",
                "answers": [str(number + 3)],
                "source": f"{city.lower()}.md",
                "size": "small" if number < 4 else "large",
            }
        )
    (root / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_adapter(root / "adapter", write_llama(root / "model"))
    embedder = write_embedder(root / "embedder")
    index = IndexSpec(
        kind="index",
        name="bridges",
        sources=[str(docs)],  # type: ignore[arg-type]
        chunk={"tokens": 32, "overlap": 4},  # type: ignore[arg-type]
        embedder={"model": str(embedder)},  # type: ignore[arg-type]
    )
    index_job.run(index, context(ray_cluster, "bridges"))
    return root


def spec(corpus: Path, **changes: Any) -> CompareSpec:
    values: dict[str, Any] = {
        "kind": "compare",
        "name": "bridges-compare",
        "model": str(corpus / "model"),
        "raft_adapter": str(corpus / "adapter"),
        "arms": ["base", "rag", "raft", "oracle"],
        "eval": str(corpus / "eval.jsonl"),
        "collection": "bridges",
        "max_tokens": 6,
        "bootstrap": 100,
        "slices": ["size"],
        "engine": {"name": "transformers", "max_model_len": 512},
    }
    return CompareSpec(**(values | changes))


def test_a_comparison_over_a_real_index(ray_cluster: Cluster, corpus: Path) -> None:
    job = context(ray_cluster, "bridges-compare")
    result = compare_job.run(spec(corpus), job)
    folder = Path(result["report"])
    report = Report.model_validate_json((folder / "report.json").read_text())
    assert {name: (arm.n, arm.failures) for name, arm in report.arms.items()} == dict.fromkeys(
        ("base", "rag", "raft", "oracle"), (8, 0)
    )
    # Random weights know nothing, but words find documents: BM25 is one half of the hybrid search.
    assert (report.arms["rag"].metrics["recall_at_k"] or 0.0) > 0.5
    assert report.arms["oracle"].metrics["answer_in_context"] == 1.0
    assert report.verdict.winner is None
    assert read_manifest(folder).type == "report"

    run = mlflow.MlflowClient(ray_cluster.mlflow_uri).get_run(result["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["rag.recall_at_k"] == report.arms["rag"].metrics["recall_at_k"]
    logged = mlflow.MlflowClient(ray_cluster.mlflow_uri).list_artifacts(run.info.run_id, "report")
    assert {Path(file.path).name for file in logged} >= {"report.html", "report.json", "items.parquet"}

    rows = {(row["arm"], row["id"]): row for row in pq.read_table(folder / "items.parquet").to_pylist()}
    for city in CITIES:
        base, rag, oracle = (rows[arm, city] for arm in ("base", "rag", "oracle"))
        assert rag["prompt_tokens"] > base["prompt_tokens"]
        assert rag["shown"] == len(rag["retrieved_ids"]) == 3
        assert {passage["source"] for passage in oracle["passages"]} == {rag["source"]}
    # The adapter is in use: the same prompts, other answers.
    assert any(rows["rag", city]["prediction"] != rows["raft", city]["prediction"] for city in CITIES)


def test_asked_in_a_task_as_where_gpus_are_the_answers_are_the_same(ray_cluster: Cluster, corpus: Path) -> None:
    here = json.loads((Path(compare_job.run(spec(corpus), context(ray_cluster, "here"))["report"]) / FILE).read_text())
    placed = replace(real_tools(ray_cluster), place=lambda work: in_a_task(work, {"num_cpus": 1.0}))
    result = compare_job.run(spec(corpus), context(ray_cluster, "there"), placed)
    there = json.loads((Path(result["report"]) / FILE).read_text())
    assert {name: arm["metrics"] for name, arm in there["arms"].items()} == {
        name: arm["metrics"] for name, arm in here["arms"].items()
    }
    assert (context(ray_cluster, "there").dir / "answers" / "rag.jsonl").exists()


def test_an_unknown_collection_is_told_with_those_that_exist(ray_cluster: Cluster, corpus: Path) -> None:
    with pytest.raises(NotFoundError, match="bridges"):
        compare_job.run(spec(corpus, collection="nowhere"), context(ray_cluster, "nowhere"))
