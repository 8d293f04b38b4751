"""report.html: one file without a single outside reference, safe against whatever stands in a question or an answer."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tandem.evaluation import text
from tandem.evaluation.plot import forest_plot
from tandem.evaluation.scoring import ScoredItem
from tandem.evaluation.statistics import ALPHA
from tandem.evaluation.summary import slice_value

# A page with more would be slow to open; all of them are in items.parquet.
ITEMS_SHOWN = 2000


def html(report: Mapping[str, Any], items: Mapping[str, Sequence[ScoredItem]]) -> str:
    """The report as a page.

    Args:
        report: A report.json, as data.
        items: Scored items by arm, in the same order in each.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    package = PackageLoader("tandem.evaluation")
    environment = Environment(
        loader=package, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = package.get_source(environment, "report.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    arms = text.ranked(report)
    metric = report["verdict"]["metric"]
    page = environment.get_template("report.html.j2").render(
        report=report,
        arms=arms,
        text=text,
        metric=metric,
        other="f1" if metric == "em" else "em",
        alpha=ALPHA,
        leaders=[report["verdict"]["winner"], *report["verdict"]["tied"]],
        plot=Markup(forest_plot(report)),  # made by matplotlib from names and numbers, which it escapes
        style=Markup(package.get_source(environment, "report.css")[0]),
        script=Markup(script),
        # Only our own script may run, by its hash: escaping is not the only guard.
        script_hash=Markup(digest),
        data=Markup(_script_json(_page_data(report, items, arms))),
        shown=min(report["dataset"]["n"], ITEMS_SHOWN),
    )
    return str(page).lstrip()


def _script_json(data: Any) -> str:
    # Inside <script> HTML knows no entities: `<` must not occur at all.
    raw = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return raw


def _page_data(
    report: Mapping[str, Any], items: Mapping[str, Sequence[ScoredItem]], arms: Sequence[str]
) -> dict[str, Any]:
    columns = list(report["slices"])
    rows = []
    for position in range(min(report["dataset"]["n"], ITEMS_SHOWN)):
        by_arm = {arm: items[arm][position] for arm in arms}
        first = next(iter(by_arm.values()))
        retrieved = next((item for item in by_arm.values() if item.recall_at_k is not None), None)
        contexts: dict[str, Any] = {}
        for arm, item in by_arm.items():
            if item.passages:
                # Arms with the same passages share them.
                key = "gold" if arm == "oracle" else "retrieved"
                contexts.setdefault(key, [asdict(passage) for passage in item.passages])
        rows.append(
            {
                "id": first.id,
                "question": first.question,
                "answers": first.answers,
                "source": first.source,
                "slices": {column: slice_value(first.extra, column) for column in columns},
                "recall": None if retrieved is None else retrieved.recall_at_k,
                "contexts": contexts,
                "arms": {arm: _answer(item) for arm, item in by_arm.items()},
            }
        )
    return {"arms": list(arms), "columns": columns, "items": rows}


def _answer(item: ScoredItem) -> dict[str, Any]:
    return {
        "text": item.prediction,
        "failure": item.failure,
        "em": item.em,
        "f1": round(item.f1, 3),
        "cut": item.finish_reason == "length",
        "shown": item.shown,
        "ms": None if item.latency_ms is None else round(item.latency_ms),
    }
