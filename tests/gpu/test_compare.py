"""A comparison that computes on the GPU: as on a processor, the same twice, and at the GPU's price.

What counts as right is what arm `raft` says in float32 on a processor, so that figures of random weights aren't all 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from stand_ins.documents import eventually
from stand_ins.gpu_jobs import Jobs
from tiny_models import write_adapter, write_embedder

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import write_manifest
from tandem.config.cluster import Cluster
from tandem.evaluation import job
from tandem.evaluation.figures.costs import this_machine
from tandem.evaluation.schema import Report
from tandem.evaluation.tools import Tools, real_tools
from tandem.models.engines.likelihood import open_likelihoods
from tandem.models.engines.prompting import token_ids
from tandem.specs.compare import CompareSpec, EngineSpec
from tandem.specs.search import SearchSpec

ARMS = ("base", "rag", "tuned", "tuned_rag", "raft", "oracle")
CLASSIFIES = ("base", "rag", "tuned", "tuned_rag")
TRAINING_S = 90.0
COUNT = 48  # one and a half of the batches in which they are asked
WORDS = ("fox", "dog", "setting", "number", "question", "document", "answer", "mark")


@contextmanager
def without_gpu() -> Iterator[None]:
    """As on a machine that has none."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def subject(number: int) -> str:
    return f"{WORDS[number % len(WORDS)]} {number}"


class Passages:
    """Finds two documents that aren't the question's, and between them, for all but each fourth question, the one."""

    def search(
        self, questions: Sequence[str], how: SearchSpec, *, filter: Mapping[str, Any] | None = None
    ) -> list[list[Any]]:
        return [self._found(int(question.split()[4].rstrip("?")), filter)[: how.top_k] for question in questions]

    def _found(self, number: int, filter: Mapping[str, Any] | None) -> list[Any]:
        found = [number] if filter else [number + 1, number, number + 2]
        return [
            SimpleNamespace(
                id=f"p{n}",
                source=f"{n}.md",
                section="",
                score=1.0 / rank,
                text=f"The value of {subject(n)} is {n * n}.",
            )
            for rank, n in enumerate(found, start=1)
            if filter or n != number or number % 4
        ]


@dataclass(frozen=True)
class Compared:
    """A comparison that has ended.

    Attributes:
        report: Its report.json.
        items: Of items.parquet, by arm and id.
    """

    report: Report
    items: Mapping[tuple[str, str], Mapping[str, Any]]

    def answers(self) -> dict[tuple[str, str], str]:
        return {key: item["prediction"] for key, item in self.items.items()}

    def figures(self) -> dict[str, Any]:
        """All but what depends on the clock: latencies, costs, and which of equal arms is the cheapest."""
        report = self.report.model_dump(mode="json")
        arms = {
            name: {key: value for key, value in arm.items() if key not in ("latency_ms", "cost")}
            for name, arm in report["arms"].items()
        }
        verdict = {key: report["verdict"][key] for key in ("kind", "winner", "more_items")}
        return {"arms": arms, "verdict": verdict} | {key: report[key] for key in ("dataset", "pairs", "slices")}


def compare(fields: dict[str, Any], name: str, cluster: Cluster, tools: Tools) -> Compared:
    folder = cluster.storage / "jobs" / name
    folder.mkdir(parents=True)
    spec = CompareSpec.model_validate({"kind": "compare", "name": name, "bootstrap": 200} | fields)
    result = job.run(spec, JobContext(name, name, folder, cluster.storage, cluster), tools)
    made = Path(result["report"])
    items = {(item["arm"], item["id"]): item for item in pq.read_table(made / "items.parquet").to_pylist()}
    return Compared(Report.model_validate_json((made / "report.json").read_text()), items)


def tools_of(cluster: Cluster, **changes: Any) -> Tools:
    """The cluster's own, but for retrieval and MLflow, which need no GPU."""
    return replace(real_tools(cluster), searcher=lambda *_: (Passages(), {}), track=lambda *_: None, **changes)


@dataclass
class Comparisons:
    """Compares one model and its two adapters by questions.

    Args:
        root: Where all lies.
        model: The base model.
    """

    root: Path
    model: Path

    def __post_init__(self) -> None:
        for seed, name in enumerate(("tuned", "raft"), start=1):
            folder = write_adapter(self.root / name, self.model, seed=seed)
            meta = {"base_model": str(self.model), "metrics": {"seconds": TRAINING_S, "cpus": 1, "gpus": 1}}
            write_manifest(folder, name=name, id=f"{name}-1", type="adapter", meta=meta)
        self.ask([(n, "nothing yet") for n in range(COUNT)])

    def ask(self, rows: Sequence[tuple[int, str]]) -> None:
        """Set the questions and the answers that count as right."""
        lines = [
            {"id": f"q{n}", "question": f"What is the {subject(n)}?", "answers": [answer], "source": f"{n}.md"}
            for n, answer in rows
        ]
        (self.root / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(self, name: str, dtype: str, cluster: Cluster | None = None) -> Compared:
        """In this process; or with a cluster in the task that it has for that."""
        fields = {
            "model": str(self.model),
            "adapter": str(self.root / "tuned"),
            "raft_adapter": str(self.root / "raft"),
            "arms": ARMS,
            "eval": str(self.root / "eval.jsonl"),
            "collection": "values",
            "max_tokens": 8,
            "engine": {"name": "transformers", "max_model_len": 512, "dtype": dtype},
            "prices": {"cpu_hour": 0.0, "gpu_hour": 3600.0},
        }
        if cluster is not None:
            return compare(fields, name, cluster, tools_of(cluster))
        nowhere = dict.fromkeys(("ray_address", "dashboard_url", "server_url", "endpoint_url", "database_url"), "")
        alone = Cluster(storage=self.root, mlflow_uri="", api_key_file=self.root / "key", **nowhere)
        return compare(fields, name, alone, tools_of(alone, machine=this_machine, place=lambda work: work))


@pytest.fixture(scope="module")
def comparisons(gpu: str, peaked_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparisons:
    return Comparisons(tmp_path_factory.mktemp("comparisons"), peaked_llama)


@pytest.fixture(scope="module")
def on_a_processor(comparisons: Comparisons) -> Compared:
    """In float32; afterwards what its arm `raft` says counts as right."""
    with without_gpu():
        compared = comparisons.run("processor", "float32")
    # An empty answer can't be asked for.
    said = [(n, compared.items["raft", f"q{n}"]["prediction"]) for n in range(COUNT)]
    comparisons.ask([(n, answer) for n, answer in said if answer])
    return compared


@pytest.fixture(scope="module")
def exact(comparisons: Comparisons, on_a_processor: Compared) -> Compared:
    return comparisons.run("exact", "float32")


@pytest.fixture(scope="module")
def rounded(comparisons: Comparisons, on_a_processor: Compared) -> Compared:
    """In the type that the engine chooses for this GPU."""
    return comparisons.run("rounded", "auto")


def test_every_arm_answers(rounded: Compared) -> None:
    import torch

    asked = rounded.report.dataset.n
    assert asked > COUNT // 2
    assert {name: (arm.n, arm.failures) for name, arm in rounded.report.arms.items()} == dict.fromkeys(ARMS, (asked, 0))
    assert rounded.report.lineage["engine"]["used"] == "transformers"
    assert rounded.report.lineage["machine"]["gpus"] == torch.cuda.device_count()
    assert torch.cuda.max_memory_allocated() > 0
    # Context and adapters are in use: no arm gives another's answers.
    ids = [id for arm, id in rounded.items if arm == "base"]
    assert len({tuple(rounded.items[arm, id]["prediction"] for id in ids) for arm in ARMS}) == len(ARMS)


@pytest.mark.parametrize(("name", "dtype"), [("exact", "float32"), ("rounded", "auto")])
def test_a_second_run_agrees_exactly(
    comparisons: Comparisons, request: pytest.FixtureRequest, name: str, dtype: str
) -> None:
    first: Compared = request.getfixturevalue(name)
    second = comparisons.run(f"{name}-again", dtype)
    assert first.answers() == second.answers()
    assert first.figures() == second.figures()


def test_the_answers_are_those_of_a_processor(exact: Compared, on_a_processor: Compared) -> None:
    theirs = on_a_processor.answers()
    assert exact.answers() == {key: theirs[key] for key in exact.answers()}
    assert exact.report.arms["raft"].metrics["em"] == 1.0
    assert exact.report.verdict.winner == "raft"


def test_what_it_costs_is_the_gpus_time(rounded: Compared) -> None:
    gpus = rounded.report.lineage["machine"]["gpus"]
    for name, arm in rounded.report.arms.items():
        mine = [item["seconds"] for item in rounded.items.values() if item["arm"] == name]
        # A GPU's second costs 1, a core's nothing.
        assert arm.cost.gpu_s_per_1k == pytest.approx(1000 * gpus * sum(mine) / len(mine))
        assert arm.cost.per_1k == pytest.approx(arm.cost.gpu_s_per_1k)
        assert arm.cost.train == (TRAINING_S if name in ("tuned", "tuned_rag", "raft") else 0.0)


def test_in_16_bits_answers_go_with_those_of_32_for_long(rounded: Compared, exact: Compared) -> None:
    """To the end few can: among random weights' next tokens the first two are often as likely as each other."""
    same, shared = dict.fromkeys(ARMS, 0), dict.fromkeys(ARMS, 0.0)
    asked = exact.report.dataset.n
    for (arm, id), item in exact.items.items():
        answer, other = item["prediction"], rounded.items[arm, id]["prediction"]
        same[arm] += answer == other
        alike = list(takewhile(lambda pair: pair[0] == pair[1], zip(answer, other, strict=False)))
        shared[arm] += len(alike) / max(1, len(answer)) / asked
    print(f"in 16 and in 32 bits of {asked} answers the same: {same}; of an answer's characters: {shared}")
    assert min(shared.values()) > 0.3
    assert rounded.report.verdict.winner == exact.report.verdict.winner


def test_on_a_cluster_a_task_holds_the_gpu_and_answers_alike(
    ray_cluster: Cluster, comparisons: Comparisons, rounded: Compared
) -> None:
    import ray

    everything = ray.available_resources()["GPU"]
    compared = comparisons.run("in-a-task", "auto", ray_cluster)
    assert compared.answers() == rounded.answers()
    assert compared.figures() == rounded.figures()
    assert compared.report.lineage["machine"]["gpus"] == 1.0
    assert eventually(lambda: ray.available_resources().get("GPU") == everything, within_s=30)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", None)])
def test_labels_weigh_what_they_weigh_on_a_processor(llama: Path, dtype: Any, tolerance: float | None) -> None:
    import numpy as np

    texts = [f"The {subject(n)} answers. " * (1 + n % 3) for n in range(20)]
    weights = []
    for cuda in (True, False):
        spec = EngineSpec(dtype=dtype if cuda else "float32", max_model_len=512)
        if cuda:
            engine = open_likelihoods(spec, llama, WORDS)
        else:
            with without_gpu():
                engine = open_likelihoods(spec, llama, WORDS)
        assert next(engine._model.parameters()).is_cuda is cuda
        prompts = [token_ids(engine._tokenizer, [{"role": "user", "content": text}]) for text in texts]
        weights.append(engine.weigh(prompts))
        engine.close()
    ours, theirs = weights
    print(
        f"{dtype}: largest difference {np.abs(ours - theirs).max():.2g} of a spread of {theirs.std(axis=1).mean():.2g}"
    )
    assert np.isfinite(ours).all()
    assert np.abs(ours - theirs).max() < (tolerance or 0.1 * theirs.std(axis=1).mean())


def test_classifiers_are_compared_as_on_a_processor(
    jobs: Jobs, llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    trained, data = jobs["classes"].result(), jobs["classes"].spec()["data"]
    fields = {
        "task": "classification",
        "model": str(llama),
        "classifier": trained["artifact"],
        "arms": CLASSIFIES,
        "train": data["train"],
        "eval_fraction": data["eval_fraction"],
        "neighbours": {"embedder": {"model": str(write_embedder(tmp_path_factory.mktemp("embedder") / "model"))}},
        "engine": {"max_model_len": 1024, "dtype": "float32"},
    }
    ours = compare(fields, "classes-gpu", jobs.cluster, tools_of(jobs.cluster))
    again = compare(fields, "classes-again", jobs.cluster, tools_of(jobs.cluster))
    with without_gpu():
        theirs = compare(fields, "classes-processor", jobs.cluster, tools_of(jobs.cluster))
    assert ours.figures() == again.figures()
    assert ours.answers() == again.answers() == theirs.answers()
    assert {arm.failures for arm in ours.report.arms.values()} == {0}
    assert ours.report.arms["tuned"].metrics["accuracy"] == pytest.approx(trained["accuracy"])
