"""From scored items to figures: pure, and the same bit for bit from the same items and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import lcm
from typing import TYPE_CHECKING

from tandem.evaluation.asking.arms import Arm
from tandem.evaluation.figures.costs import Machine, arm_cost
from tandem.evaluation.figures.measures import BY_NAME, BY_TASK, Measure
from tandem.evaluation.figures.metrics import corpus_bleu, corpus_chrf
from tandem.evaluation.figures.pairs import PairTest, compare_pairs
from tandem.evaluation.figures.scoring import ScoredItem, over_seeds
from tandem.evaluation.figures.slices import Slices
from tandem.evaluation.figures.statistics import Figure, bootstrap, interval, mean_of
from tandem.evaluation.figures.verdict import Candidate, decide, rule
from tandem.evaluation.schema import ArmReport, Ci95, Latency, SeedSpread, SliceReport, Tokens, VerdictReport
from tandem.specs.compare import CompareSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

# By arm, for each of its adapters, the scored items; questions in the same order in all of them.
Runs = Mapping[str, Sequence[Sequence[ScoredItem]]]
Items = Mapping[str, Sequence[ScoredItem]]


def figure(measure: Measure, items: Sequence[ScoredItem]) -> Figure | None:
    """A measure over items; None where it isn't defined for any of them."""
    import numpy as np

    if measure.over == "mean":
        scores = [item.scores[measure.name] for item in items]
        values = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
        return mean_of(values, high=measure.high) if np.isfinite(values).any() else None
    counts = np.array([item.counts[measure.name] for item in items], dtype=np.float64)
    return Figure(counts, STATISTICS[measure.name], high=measure.high)


def macro_f1(sums: Floats) -> Floats:
    """Macro-F1 from counts: for each label its texts, those given it, and those of them that are right.

    Args:
        sums: (n, 3 × labels) float64.

    Returns:
        (n,) the mean F1 over labels that texts or answers have.
    """
    import numpy as np

    texts, given, right = np.moveaxis(sums.reshape(len(sums), -1, 3), 2, 0)
    with np.errstate(invalid="ignore"):
        scores: Floats = np.nanmean(2.0 * right / (texts + given), axis=1)
    return scores


STATISTICS: dict[str, Callable[[Floats], Floats]] = {"bleu": corpus_bleu, "chrf": corpus_chrf, "macro_f1": macro_f1}


def summarize_arms(
    arms: Sequence[Arm], runs: Runs, spec: CompareSpec, machine: Machine, train_costs: Mapping[str, float | None]
) -> dict[str, ArmReport]:
    """Each arm's figures over all questions.

    Args:
        arms: Of the comparison.
        runs: Their items.
        spec: For prices, resamples and seed.
        machine: What answered.
        train_costs: By arm, what training its adapter cost; 0 without one, None where unknown.
    """
    measures = BY_TASK[spec.task]
    merged = {arm.name: over_seeds(runs[arm.name]) for arm in arms}
    figures, intervals = _figures(merged, measures, spec)
    return {
        arm.name: _arm_report(arm, merged[arm.name], figures[arm.name], intervals[arm.name], spec, machine,
                              train_costs[arm.name], _spread(runs[arm.name], measures))
        for arm in arms
    }  # fmt: skip


def _figures(
    items: Items, measures: Sequence[Measure], spec: CompareSpec
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, Ci95]]]:
    """By arm and measure: the figure, and its interval; the same resamples for all."""
    found = {(arm, m.name): figure(m, scored) for arm, scored in items.items() for m in measures}
    known = {key: f for key, f in found.items() if f is not None}
    resampled = bootstrap(list(known.values()), resamples=spec.bootstrap, seed=spec.seed) if known else None
    values: dict[str, dict[str, float | None]] = {arm: {} for arm in items}
    intervals: dict[str, dict[str, Ci95]] = {arm: {} for arm in items}
    for (arm, name), one in found.items():
        values[arm][name] = None if one is None else one.value
    for place, ((arm, name), one) in enumerate(known.items()):
        assert resampled is not None
        intervals[arm][name] = interval(one, resampled[:, place])
    return values, intervals


def _arm_report(
    arm: Arm,
    items: Sequence[ScoredItem],
    figures: dict[str, float | None],
    intervals: dict[str, Ci95],
    spec: CompareSpec,
    machine: Machine,
    train_cost: float | None,
    seeds: SeedSpread | None,
) -> ArmReport:
    import numpy as np

    latencies = [item.latency_ms for item in items if item.latency_ms is not None]
    completion = sum(item.completion_tokens for item in items)
    right = sum(item.scores[RIGHT[spec.task]] or 0.0 for item in items)
    return ArmReport(
        n=len(items),
        failures=sum(item.failure is not None for item in items),
        candidate=arm.candidate,
        metrics=figures,
        ci95=intervals,
        seeds=seeds,
        latency_ms=Latency(
            p50=float(np.percentile(latencies, 50)) if latencies else None,
            p95=float(np.percentile(latencies, 95)) if latencies else None,
        ),
        tokens=Tokens(
            prompt=sum(item.prompt_tokens for item in items),
            completion=completion,
            completion_mean=completion / len(items),
        ),
        cost=arm_cost([item.seconds for item in items], right, train_cost, machine, spec.prices),
    )


# The measure by which a single item is right.
RIGHT = {"generation": "em", "classification": "accuracy"}


def _spread(runs: Sequence[Sequence[ScoredItem]], measures: Sequence[Measure]) -> SeedSpread | None:
    """How the figures differ between adapters that differ by their seed alone: another thing than how items differ."""
    import numpy as np

    if len(runs) == 1:
        return None
    deviations, ranges = {}, {}
    for measure in measures:
        found = [one.value for items in runs if (one := figure(measure, items)) is not None]
        if len(found) == len(runs):
            deviations[measure.name] = float(np.std(found, ddof=1))
            ranges[measure.name] = (min(found), max(found))
    return SeedSpread(n=len(runs), sd=deviations, range=ranges)


def summarize_pairs(arms: Sequence[Arm], runs: Runs, spec: CompareSpec) -> list[PairTest]:
    """Paired tests of every two candidates; the primary metric first."""
    tested = [measure for measure in BY_TASK[spec.task] if measure.tested or measure.name == spec.metric]
    tests: list[PairTest] = []
    merged = {arm.name: over_seeds(runs[arm.name]) for arm in arms if arm.candidate}
    whole = lcm(*(len(runs[arm]) for arm in merged))
    for measure in sorted(tested, key=lambda measure: measure.name != spec.metric):
        found = {arm: figure(measure, items) for arm, items in merged.items()}
        figures = {arm: _weighted(one, whole // len(runs[arm])) for arm, one in found.items() if one is not None}
        tests += compare_pairs(figures, measure.name, resamples=spec.bootstrap, seed=spec.seed)
    return tests


def _weighted(one: Figure, times: int) -> Figure:
    # Counts are sums over adapters: an item may be swapped between two arms only if it weighs the same in both.
    return one if one.values is not None else replace(one, counts=one.counts * times)


def judge(arms: Mapping[str, ArmReport], pairs: Sequence[PairTest], spec: CompareSpec) -> VerdictReport:
    """The verdict on the primary metric."""
    candidates = [_candidate(name, arm, spec.metric) for name, arm in arms.items() if arm.candidate]
    primary = [pair for pair in pairs if pair.metric == spec.metric]
    items = next(iter(arms.values())).n
    margin = spec.margin * BY_NAME[spec.metric].high
    verdict = decide(candidates, primary, metric=spec.metric, items=items, margin=margin)
    return VerdictReport(**asdict(verdict), metric=spec.metric, margin=margin, rule=rule(spec.margin))


def _candidate(name: str, arm: ArmReport, metric: str) -> Candidate:
    whole = arm.cost.per_1k_with_training
    known = whole is not None
    return Candidate(name, arm.metrics[metric] or 0.0, arm.cost.per_1k if whole is None else whole, cost_known=known)


def summarize_slices(runs: Runs, slices: Slices, spec: CompareSpec) -> dict[str, dict[str, dict[str, SliceReport]]]:
    """Figures by column, value and arm. They are there to explain, not to be tested: no p-values."""
    merged = {arm: over_seeds(each) for arm, each in runs.items()}
    sliced = [measure for measure in BY_TASK[spec.task] if measure.sliced or measure.name == spec.metric]
    found: dict[str, dict[str, dict[str, SliceReport]]] = {}
    for column, value_of in slices.items():
        found[column] = {}
        for value in sorted(set(value_of.values())):
            part = {arm: [item for item in items if value_of[item.id] == value] for arm, items in merged.items()}
            figures, intervals = _figures(part, sliced, spec)
            found[column][value] = {
                arm: SliceReport(n=len(items), metrics=figures[arm], ci95=intervals[arm]) for arm, items in part.items()
            }
    return found


def notes(runs: Runs, spec: CompareSpec, quarantined: int) -> list[str]:
    """What a reader should know before believing the figures."""
    said = []
    if quarantined:
        said.append(f"{quarantined} rows of {spec.eval or spec.train} couldn't be used and were left out.")
    for arm, each in runs.items():
        scored = [item for items in each for item in items]
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
