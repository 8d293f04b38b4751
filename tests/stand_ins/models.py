"""Fine-tuned models as jobs leave them, and comparisons of them with real figures of simulated answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from stand_ins.comparisons import report_of, simulate
from stand_ins.shell import FakeServe
from stand_ins.world import World

from tandem.artifacts.manifest import write_manifest
from tandem.errors import UnreachableError
from tandem.evaluation.figures.scoring import write_parquet
from tandem.evaluation.schema import to_json
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.promotion.promoter import Promoter
from tandem.retrieval.snapshot import IndexSnapshot, write_snapshot
from tandem.specs.base import PromptSpec
from tandem.specs.rag import RagSpec

BASE = "hf:org/base"
GOOD, FAIR, MIDDLING, POOR = (0.95, 0.95, 0.0), (0.7, 0.7, 0.0), (0.4, 0.4, 0.0), (0.05, 0.05, 0.0)
PROMPT = PromptSpec().canonical()


def make_model(
    storage: Path, name: str, id: str, *, type: Any = "adapter", width: int = 4, prompt: Any = PROMPT, **meta: Any
) -> Path:
    """An artifact of a finetune job: an adapter of one matrix, or a whole model of none."""
    folder = storage / "artifacts" / name / id
    folder.mkdir(parents=True)
    if type == "adapter":
        (folder / "adapter_config.json").write_text(json.dumps({"r": 2}))
        module = "base_model.model.layer"
        save_file(
            {f"{module}.lora_A.weight": np.ones((2, width), np.float32)}, str(folder / "adapter_model.safetensors")
        )
    else:
        (folder / "config.json").write_text("{}")
    facts = {"base_model": BASE, "task": "generation", "prompt": prompt, **meta}
    write_manifest(folder, name=name, id=id, type=type, meta=facts)
    return folder


def compare(
    storage: Path,
    id: str,
    *,
    skill: Mapping[str, Any],
    adapters: Mapping[str, str] | None = None,
    questions: str = "5b",
    count: int = 60,
    index: str = "i-1",
    model_id: str | None = None,
    **changes: Any,
) -> Path:
    """A comparison's artifact.

    Args:
        storage: The cluster's.
        id: The job's.
        skill: By arm, how often it is right: these are the arms.
        adapters: By arm, the version that it asked; ``NAME@ID``.
        questions: A byte in hex; another one: other questions.
        count: How many.
        index: The collection's snapshot.
        model_id: Of the job that made the base model.
        changes: To the spec.
    """
    given = {"raft": "raft_adapter", "tuned_rag": "adapter"}
    asked = {given[arm]: version for arm, version in (adapters or {}).items()}
    fields: dict[str, Any] = {"model": BASE, "adapter": None, "raft_adapter": None, "bootstrap": 200}
    fields |= {field: f"artifact:{version}" for field, version in asked.items()} | changes
    inputs, runs = simulate(count, skill=skill, arms=list(skill), chance_seed=len(id), **fields)
    trained = {
        field: [{"uri": f"artifact:{version}", "id": version.partition("@")[2], "sha256": "d1" * 32}]
        for field, version in asked.items()
    }
    searched = {"collection": inputs.spec.collection, "id": index}
    inputs = replace(inputs, trained=trained, index=searched, split_sha256=questions * 32, model_id=model_id)
    report, _ = report_of((inputs, runs))
    folder = storage / "artifacts" / "comparison" / id
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(to_json(report.model_copy(update={"id": id})))
    write_parquet([item for each in runs.values() for items in each for item in items], inputs.slices,
                  folder / "items.parquet")  # fmt: skip
    write_manifest(folder, name="comparison", id=id, type="report", meta={})
    return folder


def index(storage: Path, id: str, *, collection: str = "django") -> None:
    """What an index job left of a collection; `id` is the snapshot's too."""
    facts = dict.fromkeys(("batch_size", "dimension", "chunk_tokens", "chunk_overlap", "documents", "chunks"), 0)
    snapshot = IndexSnapshot(
        id=id, collection=collection, points=f"{collection}-1", embedder="e", embedder_sha256="", sparse=True,
        tenant_field=None, **facts,
    )  # fmt: skip
    folder = storage / "artifacts" / "docs" / f"docs-{id}"
    folder.mkdir(parents=True)
    write_snapshot(folder, snapshot, name="docs", id=f"docs-{id}", figures=asdict(snapshot))


class Bench:
    """An endpoint over a base model, and what jobs have left beside it."""

    def __init__(self, world: World) -> None:
        self.storage = world.cluster.storage
        self.serve = FakeServe()
        self.deployer: Deployer = world.deployer(self.serve)
        self.promoter = Promoter(self.storage, self.deployer)

    def deploy(self, app: str = "rag", **changes: Any) -> list[str]:
        args = {"kind": "rag", "name": "ask", "model": BASE, "retriever": {"collection": "django", "top_k": 3}}
        config = {"name": app, "route_prefix": f"/{app}", "import_path": "tandem.serving.app:build"}
        return self.deployer.deploy({"applications": [{**config, "args": {**args, **changes}}]}, by="ada").notes

    def spec(self, app: str = "rag") -> RagSpec:
        return self.deployer.endpoints()[app]

    def answering(self, app: str = "rag") -> str:
        """The URI of what answers when the application is asked by its own name."""
        spec = self.spec(app)
        return {each.name: each.uri for each in spec.adapters}.get(spec.default_model or "", spec.model)

    def version(self, id: str, *, name: str = "tuned", skill: Any = GOOD, **changes: Any) -> None:
        """A version, and a comparison of it with the base model's answers from passages."""
        make_model(self.storage, name, id)
        compare(self.storage, f"c-{id}", skill={"rag": MIDDLING, "raft": skill}, adapters={"raft": f"{name}@{id}"},
                **changes)  # fmt: skip

    @contextmanager
    def answer_lost(self, *, taken: bool) -> Iterator[None]:
        """Ray Serve breaks off when it is told something, whether it took it or not."""
        put = self.deployer._put

        def breaks_off(config: Any) -> None:
            if taken:
                put(config)
            raise UnreachableError("Ray Serve broke off")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(self.deployer, "_put", breaks_off)
            yield

    def hold(self, text: str, state: str, why: str) -> None:
        """Have whatever has a text in its config stand so from now on."""
        self.serve.only_with, self.serve.state, self.serve.message = text, state, why
