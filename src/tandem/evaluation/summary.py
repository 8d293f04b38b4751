"""From scored items to figures: pure, and the same bit for bit from the same items and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tandem.evaluation.arms import Arm
from tandem.evaluation.costs import Machine, arm_cost
from tandem.evaluation.metrics import corpus_bleu
from tandem.evaluation.schema import (
    ArmReport,
    Ci95,
    Latency,
    SliceReport,
    Tokens,
    VerdictReport,
)
from tandem.evaluation.scoring import ScoredItem
from tandem.evaluation.statistics import PairTest, compare_pairs, counts_interval, mean_interval, stream
from tandem.evaluation.verdict import RULE, Candidate, decide
from tandem.specs.compare import CompareSpec

Items = Mapping[str, Sequence[ScoredItem]]
Figures = tuple[dict[str, float | None], dict[str, Ci95]]

MEANS = ("em", "f1", "rouge_l", "recall_at_k", "answer_in_context")
SLICED = ("em", "f1", "recall_at_k")
TESTED = ("em", "f1")
NO_VALUE = "(none)"


def summarize_arm(
    arm: Arm, items: Sequence[ScoredItem], spec: CompareSpec, machine: Machine, train_cost: float | None
) -> ArmReport:
    """One arm's figures over all questions.

    Args:
        arm: Whose.
        items: Its scored items.
        spec: For prices, resamples and seed.
        machine: What answered.
        train_cost: What training its adapter cost; 0 without one, None where unknown.
    """
    import numpy as np

    figures, intervals = _means(items, MEANS, spec, arm.name)
    counts = np.array([item.bleu_counts for item in items], dtype=np.int64)
    figures["bleu"] = corpus_bleu(counts)
    rng = stream(spec.seed, arm.name, "bleu")
    intervals["bleu"] = counts_interval(counts, corpus_bleu, resamples=spec.bootstrap, rng=rng)
    latencies = [item.latency_ms for item in items if item.latency_ms is not None]
    completion = sum(item.completion_tokens for item in items)
    return ArmReport(
        n=len(items),
        failures=sum(item.failure is not None for item in items),
        candidate=arm.candidate,
        metrics=figures,
        ci95=intervals,
        latency_ms=Latency(
            p50=float(np.percentile(latencies, 50)) if latencies else None,
            p95=float(np.percentile(latencies, 95)) if latencies else None,
        ),
        tokens=Tokens(
            prompt=sum(item.prompt_tokens for item in items),
            completion=completion,
            completion_mean=completion / len(items),
        ),
        cost=arm_cost(
            [item.seconds for item in items], sum(item.em for item in items), train_cost, machine, spec.prices
        ),
    )


def _means(items: Sequence[ScoredItem], names: Sequence[str], spec: CompareSpec, *where: str) -> Figures:
    import numpy as np

    figures: dict[str, float | None] = {}
    intervals: dict[str, Ci95] = {}
    for name in names:
        values = np.array([v for item in items if (v := getattr(item, name)) is not None], dtype=np.float64)
        figures[name] = float(values.mean()) if len(values) else None
        if len(values):
            rng = stream(spec.seed, *where, name)
            intervals[name] = mean_interval(values, low=0.0, high=1.0, resamples=spec.bootstrap, rng=rng)
    return figures, intervals


def summarize_pairs(arms: Sequence[Arm], items: Items, spec: CompareSpec) -> list[PairTest]:
    """Paired tests of every two candidates; the primary metric first."""
    import numpy as np

    tests: list[PairTest] = []
    for metric in sorted(TESTED, key=lambda name: name != spec.primary):
        scores = {
            arm.name: np.array([getattr(item, metric) for item in items[arm.name]], dtype=np.float64)
            for arm in arms
            if arm.candidate
        }
        tests += compare_pairs(scores, metric, resamples=spec.bootstrap, seed=spec.seed)
    return tests


def judge(arms: Mapping[str, ArmReport], pairs: Sequence[PairTest], spec: CompareSpec) -> VerdictReport:
    """The verdict on the primary metric."""
    candidates = [
        Candidate(name, arm.metrics[spec.primary] or 0.0, (arm.cost.train or 0.0) + arm.cost.per_1k)
        for name, arm in arms.items()
        if arm.candidate
    ]
    primary = [pair for pair in pairs if pair.metric == spec.primary]
    items = next(iter(arms.values())).n
    verdict = decide(candidates, primary, metric=spec.primary, items=items)
    return VerdictReport(**asdict(verdict), metric=spec.primary, rule=RULE)


def slice_value(extra: Mapping[str, Any], column: str) -> str:
    """The value by which a question is counted in a slice."""
    value = extra.get(column)
    return NO_VALUE if value is None or value == "" else str(value)


def summarize_slices(items: Items, spec: CompareSpec) -> dict[str, dict[str, dict[str, SliceReport]]]:
    """Figures by column, value and arm. They are there to explain, not to be tested: no p-values."""
    slices: dict[str, dict[str, dict[str, SliceReport]]] = {}
    for column in spec.slices:
        values = sorted({slice_value(item.extra, column) for item in next(iter(items.values()))})
        slices[column] = {}
        for value in values:
            slices[column][value] = {}
            for arm, scored in items.items():
                part = [item for item in scored if slice_value(item.extra, column) == value]
                figures, intervals = _means(part, SLICED, spec, arm, column, value)
                slices[column][value][arm] = SliceReport(n=len(part), metrics=figures, ci95=intervals)
    return slices


def notes(items: Items, spec: CompareSpec, quarantined: int) -> list[str]:
    """What a reader should know before believing the figures."""
    said = []
    if quarantined:
        said.append(f"{quarantined} rows of {spec.eval} couldn't be used and were left out.")
    for arm, scored in items.items():
        failures = sum(item.failure is not None for item in scored)
        cut = sum(item.finish_reason == "length" for item in scored)
        dropped = sum(item.shown < len(item.passages) for item in scored if item.failure is None)
        if failures:
            said.append(f"{arm}: {failures} of {len(scored)} questions failed, which counts as wrong.")
        if 10 * cut >= len(scored):
            said.append(f"{arm}: {cut} of {len(scored)} answers were cut off at {spec.max_tokens} tokens.")
        if dropped:
            said.append(f"{arm}: passages were left out of {dropped} prompts that would have been too long.")
    return said
