"""report.html: one file without a single outside reference, safe against whatever stands in a question or an answer."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tandem.evaluation.figures import pairs, power, statistics
from tandem.evaluation.figures.measures import BY_NAME
from tandem.evaluation.figures.scoring import ScoredItem
from tandem.evaluation.figures.slices import Slices
from tandem.evaluation.report import explain, mistakes, side_tables, tables, text
from tandem.evaluation.report.browse import ITEMS_SHOWN, page_data, script_json
from tandem.evaluation.report.plot import axis_ends, cost_plot, forest_plot

if TYPE_CHECKING:
    from jinja2 import Environment


def html(report: Mapping[str, Any], items: Mapping[str, Sequence[ScoredItem]], slices: Slices) -> str:
    """The report as a page.

    Args:
        report: A report.json, as data.
        items: Scored items by arm, in the same order in each; of an arm of several seeds the first one's.
        slices: By column and question id, the value by which a question is counted.
    """
    from markupsafe import Markup

    environment = _environment()
    style, script = _source(environment, "report.css"), _source(environment, "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    metric = report["verdict"]["metric"]
    tested = [measure.name for measure in text.tested_measures(report)]
    arms = text.ranked(report)
    page = environment.get_template("report.html.j2").render(
        report=report,
        arms=arms,
        text=text,
        tables=tables,
        measure=BY_NAME[metric],
        measures=BY_NAME,
        tested=tested,
        leaders=text.leaders(report),
        explanation=explain.explanation(report),
        wrong=mistakes.count_mistakes(items),
        mistakes_say=mistakes.SAYS,
        along=_along(report, metric),
        statistics=statistics,
        power=power,
        tests=pairs,
        as_json=lambda value, indent=None: json.dumps(value, indent=indent, ensure_ascii=False),
        # Made by matplotlib from names and numbers, which it escapes.
        forests=[Markup(forest_plot(report, name)) for name in tested],
        cost_plot=Markup(cost_plot(report)) if len(arms) > 1 else None,
        style=Markup(style),
        script=Markup(script),
        # Only our own script may run, by its hash: escaping is not the only guard.
        script_hash=Markup(digest),
        data=Markup(script_json(page_data(items, arms, slices, shown=ITEMS_SHOWN))),
        shown=min(report["dataset"]["n"], ITEMS_SHOWN),
    )
    return str(page).lstrip()


def html_of_two(found: Mapping[str, Any]) -> str:
    """Two reports side by side as a page, as safe as that of one, and without any script.

    Args:
        found: From `side_by_side`.
    """
    from markupsafe import Markup

    environment = _environment()
    page = environment.get_template("side_by_side.html.j2").render(
        found=found,
        text=text,
        side=side_tables,
        measure=BY_NAME[found["metric"]],
        style=Markup(_source(environment, "report.css")),
    )
    return str(page).lstrip()


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tandem.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A number stays on the line of its unit, or of its sign.
    environment.filters["whole"] = lambda said: said.replace(" %", "\u00a0%").replace("< ", "<\u00a0")
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _along(report: Mapping[str, Any], metric: str) -> Any:
    """Where a figure lies between the ends of the metric's axis, in per cent of its length."""
    low, high = axis_ends(report, metric)

    def along(value: float) -> float:
        return round(min(100.0, max(0.0, 100.0 * (value - low) / (high - low))), 2)

    return along
