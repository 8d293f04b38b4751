"""Two reports beside each other: figures, verdicts, what changed in between, and paired tests on the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import InputError
from tandem.evaluation.figures.measures import BY_NAME, BY_TASK
from tandem.evaluation.report.text import Data, headline, ranked, verdict_sentence

if TYPE_CHECKING:
    from tandem.evaluation.figures.pairs import PairTest
    from tandem.evaluation.figures.statistics import Figure

ITEMS = "items.parquet"
# What a figure is found under in an arm, beside its measures.
SPENT = ("latency_ms.p50", "latency_ms.p95", "cost.per_1k", "cost.per_1k_with_training", "cost.train", "failures")
# Said elsewhere in the lineage too.
_TWICE = {f"spec.{key}" for key in ("model", "prompt", "classify_prompt", "engine", "prices", "seed", "bootstrap")}


@dataclass(frozen=True)
class Side:
    """One of two reports.

    Attributes:
        data: Its report.json.
        items: Its items.parquet, if that is there.
    """

    data: Data
    items: Path | None


def side_by_side(a: Side, b: Side) -> dict[str, Any]:
    """What two reports say of the same things; differences are those of b to a.

    Args:
        a: Usually the earlier one.
        b: The other.

    Returns:
        ``{"a", "b": {"id", "name", "created_at", "n", "split_sha256", "headline", "verdict"}, "task",
        "same_questions": bool, "metric", "arms": {ARM: {"figures": {NAME: {"a", "b", "diff"}}, "test": pair or null}},
        "untested": why there is no test or null, "only_a": [ARM], "only_b": [ARM],
        "changed": [{"what", "a", "b"}]}``.

    Raises:
        InputError: One is of answers and the other of labels.
    """
    if a.data["task"] != b.data["task"]:
        raise InputError(f"a comparison of {a.data['task']} can't stand beside one of {b.data['task']}")
    same = a.data["dataset"]["split_sha256"] == b.data["dataset"]["split_sha256"]
    metric = b.data["verdict"]["metric"]
    arms = [name for name in ranked(b.data) if name in a.data["arms"]]
    untested = _untested(a, b, same=same)
    tests = {} if untested else paired_tests(a, b, arms, metric)
    return {
        "a": _about(a.data),
        "b": _about(b.data),
        "task": b.data["task"],
        "same_questions": same,
        "metric": metric,
        "arms": {
            name: {
                "figures": _figures(a.data["arms"][name], b.data["arms"][name], b.data["task"]),
                "test": asdict(tests[name]) if name in tests else None,
            }
            for name in arms
        },
        "untested": untested,
        "only_a": [name for name in ranked(a.data) if name not in b.data["arms"]],
        "only_b": [name for name in ranked(b.data) if name not in a.data["arms"]],
        "changed": list(_changed(a.data, b.data)),
    }


def _untested(a: Side, b: Side, *, same: bool) -> str | None:
    if not same:
        return "they asked different questions"
    missing = [side.data["id"] for side in (a, b) if side.items is None]
    return f"{ITEMS} of {' and '.join(missing)} isn't there" if missing else None


def _about(report: Data) -> dict[str, Any]:
    about = {key: report[key] for key in ("id", "name", "created_at")}
    asked = {key: report["dataset"][key] for key in ("n", "split_sha256")}
    return {**about, **asked, "headline": headline(report), "verdict": verdict_sentence(report)}


def _figures(a: Data, b: Data, task: Any) -> dict[str, dict[str, float | None]]:
    pairs = {m.name: (a["metrics"].get(m.name), b["metrics"].get(m.name)) for m in BY_TASK[task]}
    pairs |= {name: (_reach(a, name), _reach(b, name)) for name in SPENT}
    return {
        name: {"a": x, "b": y, "diff": None if x is None or y is None else y - x}
        for name, (x, y) in pairs.items()
        if x is not None or y is not None
    }


def _reach(arm: Data, dotted: str) -> Any:
    found: Any = arm
    for key in dotted.split("."):
        found = found[key]
    return found


def _changed(a: Data, b: Data) -> Iterator[dict[str, Any]]:
    """What of where the figures come from isn't the same: names with dots, in the order of b."""
    facts = [dict(_flat({"dataset": dict(side["dataset"]), "lineage": side["lineage"]})) for side in (a, b)]
    for name in dict.fromkeys((*facts[1], *facts[0])):
        one, other = facts[0].get(name), facts[1].get(name)
        if one != other:
            yield {"what": name, "a": one, "b": other}


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        name = f"{before}{key}".removeprefix("lineage.")
        if name in _TWICE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def paired_tests(a: Side, b: Side, arms: Sequence[str], metric: str) -> dict[str, PairTest]:
    """For each arm: is it better in b than in a, item by item? Holm's correction is over the arms.

    Args:
        a: With its items.
        b: With items of the same questions.
        arms: That both have.
        metric: What is compared.

    Raises:
        InputError: The items are of other questions than the reports say, or of an arm there are none.
    """
    from dataclasses import replace

    from tandem.evaluation.figures.pairs import compare_pairs, holm

    assert a.items is not None
    assert b.items is not None
    resamples, seed = b.data["lineage"]["bootstrap"], b.data["lineage"]["seed"]
    tests: dict[str, PairTest] = {}
    for arm in arms:
        rows = _rows(a.items, arm, metric), _rows(b.items, arm, metric)
        ids, other = ([*dict.fromkeys(sorted(row["id"] for row in each))] for each in rows)
        if ids != other:
            raise InputError(f"{ITEMS} of both have other questions of {arm}, although their split is the same")
        before, after = _figures_of(rows, ids, metric)
        for test in compare_pairs({"b": after, "a": before}, metric, resamples=resamples, seed=seed):
            tests[arm] = test
    adjusted = holm([test.p for test in tests.values()])
    return {arm: replace(test, p_adjusted=p) for (arm, test), p in zip(tests.items(), adjusted, strict=True)}


def _rows(path: Path, arm: str, metric: str) -> list[dict[str, Any]]:
    """What a metric needs of an arm's items; a row for each question and adapter."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = ["id", metric] if BY_NAME[metric].over == "mean" else ["id", "prediction", "answers"]
    rows: list[dict[str, Any]] = pq.read_table(path, columns=columns, filters=pc.field("arm") == arm).to_pylist()
    if not rows:
        raise InputError(f"no items of {arm}", where=str(path))
    return rows


def _figures_of(sides: Sequence[Sequence[Mapping[str, Any]]], ids: Sequence[str], metric: str) -> list[Figure]:
    """A figure for each side, over questions in the order of their ids; several adapters are averaged item by item."""
    import numpy as np

    from tandem.evaluation.figures.statistics import Figure, mean_of
    from tandem.evaluation.figures.summary import STATISTICS

    place = {id: number for number, id in enumerate(ids)}
    figures = []
    for rows in sides:
        at = np.array([place[row["id"]] for row in rows])
        if BY_NAME[metric].over == "mean":
            values = np.array([np.nan if row[metric] is None else row[metric] for row in rows], dtype=np.float64)
            known = np.isfinite(values)
            sums = np.bincount(at[known], weights=values[known], minlength=len(ids))
            with np.errstate(invalid="ignore"):
                figures.append(mean_of(sums / np.bincount(at[known], minlength=len(ids))))
        elif BY_NAME[metric].over == "counts":
            # Sums, since such counts are whole numbers; of both sides over as many adapters.
            times = lcm(*(len(each) // len(ids) for each in sides)) // (len(rows) // len(ids))
            counts = times * _text_counts(metric, rows, at, len(ids))
            figures.append(Figure(counts, STATISTICS[metric], high=BY_NAME[metric].high))
        else:
            counts = _label_counts(sides, rows, at, len(ids))
            figures.append(Figure(counts / np.bincount(at)[:, None], STATISTICS[metric]))
    return figures


def _text_counts(metric: str, rows: Sequence[Mapping[str, Any]], at: Any, items: int) -> Any:
    """What BLEU or chrF is a statistic of.

    Returns:
        (items, counts) float64: summed over adapters.
    """
    import numpy as np

    from tandem.evaluation.figures.metrics import COUNTS

    each = [COUNTS[metric](row["prediction"], row["answers"]) for row in rows]
    counts = np.zeros((items, len(each[0])))
    np.add.at(counts, at, np.array(each, dtype=np.float64))
    return counts


def _label_counts(
    sides: Sequence[Sequence[Mapping[str, Any]]], rows: Sequence[Mapping[str, Any]], at: Any, items: int
) -> Any:
    """What `macro_f1` is a statistic of; a failed answer is an empty one, and no label.

    Returns:
        (items, 3 × labels) float64: of each label of either side its texts, those given it, those that are right.
    """
    import numpy as np

    both = [row for each in sides for row in each]
    of = {label: n for n, label in enumerate(sorted({r["answers"][0] for r in both} | {r["prediction"] for r in both}))}
    counts = np.zeros((items, len(of), 3))
    for item, row in zip(at, rows, strict=True):
        truth, given = row["answers"][0], row["prediction"]
        counts[item, of[truth], 0] += 1
        counts[item, of[given], 1] += given != ""
        counts[item, of[truth], 2] += truth == given
    return counts.reshape(items, -1)
