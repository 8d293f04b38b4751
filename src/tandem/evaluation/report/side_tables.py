"""Two reports side by side in rows, from what `side_by_side` made; imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tandem.evaluation.figures.measures import BY_NAME, BY_TASK
from tandem.evaluation.figures.statistics import ALPHA
from tandem.evaluation.report.tables import Rows, bare_p
from tandem.evaluation.report.text import NOTHING, interval, money, signed_number, whole

Found = Mapping[str, Any]

SIDES_HEADER = ["arm", "A", "B", "B − A", "95 %", "better : worse", "p", "p adjusted", "says"]
_SPENT: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("cost.per_1k", "per 1,000", money),
    ("cost.per_1k_with_training", "with training", money),
    ("latency_ms.p50", "p50 ms", whole),
    ("latency_ms.p95", "p95 ms", whole),
    ("failures", "failed", whole),
)


def about_rows(found: Found) -> Rows:
    """What the two are: a row for each fact, under A and B."""
    a, b = found["a"], found["b"]
    same = "the same" if found["same_questions"] else "others"
    rows = [[key, str(a[key]), str(b[key])] for key in ("name", "id", "created_at")]
    rows.append(["asked", f"{a['n']:,}", f"{b['n']:,}: {same}"])
    rows += [[key, a[key], b[key]] for key in ("headline", "verdict")]
    if found["untested"]:
        rows.append(["no tests", found["untested"], ""])
    for key, side in (("only_a", "A"), ("only_b", "B")):
        if found[key]:
            rows.append([f"only in {side}", ", ".join(found[key]), ""])
    return rows


def side_rows(found: Found) -> Rows:
    """The verdict's metric: a row for each arm that both have, under `SIDES_HEADER`."""
    measure = BY_NAME[found["metric"]]
    rows = []
    for name, arm in found["arms"].items():
        figure, test = arm["figures"].get(measure.name, {"a": None, "b": None, "diff": None}), arm["test"]
        diff = figure["diff"]
        row = [name, measure.number(figure["a"]), measure.number(figure["b"])]
        row.append(NOTHING if diff is None else signed_number(diff))
        row += _tested(test) if test else [NOTHING] * 5
        rows.append(row)
    return rows


def _tested(test: Mapping[str, Any]) -> list[str]:
    says = "can't tell" if test["p_adjusted"] >= ALPHA else "B is better" if test["diff"] > 0 else "A is better"
    score = NOTHING if test["wins"] is None else f"{test['wins']} : {test['losses']}"
    return [interval(test["ci95"], signed=True), score, bare_p(test["p"]), bare_p(test["p_adjusted"]), says]


def side_figures(found: Found) -> tuple[list[str], Rows]:
    """All other figures: heading with a column for each arm, and a row for each figure: A's, an arrow, B's."""
    named = [(m.name, m.head, m.number) for m in BY_TASK[found["task"]] if m.name != found["metric"]]
    rows = []
    for name, head, form in (*named, *_SPENT):
        pairs = [arm["figures"].get(name) for arm in found["arms"].values()]
        if any(pairs):
            rows.append(
                [head, *(NOTHING if pair is None else _change(form(pair["a"]), form(pair["b"])) for pair in pairs)]
            )
    return ["", *found["arms"]], rows


def _change(a: str, b: str) -> str:
    return a if a == b else f"{a} → {b}"


def changed_rows(found: Found, longest: int | None = None) -> Rows:
    """What of where the figures come from isn't the same.

    Args:
        found: The two.
        longest: Characters of a value at most; None for all.
    """
    return [
        [each["what"], *(_shortened(_value(each[side]), longest) for side in ("a", "b"))] for each in found["changed"]
    ]


def _value(value: Any) -> str:
    return NOTHING if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shortened(text: str, longest: int | None) -> str:
    line = " ".join(text.split())
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"
