"""The picture of a report: each arm's score with its interval, as an SVG that stands inside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from tandem.evaluation.text import ranked

ACCENT, QUIET, CEILING, INK, GRID = "#0b6e69", "#5b6b7a", "#a9822c", "#1c2733", "#dfe5ea"
TITLES = {"em": "Exactly right (EM)", "f1": "Token F1"}
ROW_INCHES = 0.46


def forest_plot(report: Mapping[str, Any]) -> str:
    """EM and F1 of every arm with 95 % intervals, the primary metric on the left.

    Args:
        report: A report.json, as data.

    Returns:
        An ``<svg>`` element; equal reports give equal text.
    """
    # The object interface: pyplot keeps state of its own and looks for a display.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    primary = report["verdict"]["metric"]
    names = ranked(report)
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "tandem",
        "font.family": "sans-serif",
        "font.size": 11,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": QUIET,
        "ytick.color": INK,
    }
    with rc_context(style):
        figure = Figure(figsize=(10.4, 1.1 + ROW_INCHES * len(names)), layout=ConstrainedLayoutEngine(wspace=0.07))
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, 2, sharey=True)
        for axis, metric in zip(axes, sorted(TITLES, key=lambda name: name != primary), strict=True):
            _draw(axis, report, names, metric)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page scales it: its own size would overflow a narrow window.
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )


def _draw(axis: Any, report: Mapping[str, Any], names: list[str], metric: str) -> None:
    verdict = report["verdict"]
    leaders = {verdict["winner"], *verdict["tied"]}
    for row, name in enumerate(names):
        arm = report["arms"][name]
        value = arm["metrics"][metric]
        low, high = arm["ci95"][metric]
        color = CEILING if not arm["candidate"] else ACCENT if name in leaders else QUIET
        axis.plot([low, high], [row, row], color=color, linewidth=3, solid_capstyle="round", alpha=0.45)
        face = "white" if not arm["candidate"] else color
        axis.plot([value], [row], "o", markersize=9, color=color, markerfacecolor=face, markeredgewidth=2)
        axis.annotate(
            f"{value:.2f}",
            (value, row),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=color,
        )
    axis.set_title(TITLES[metric], loc="left", fontsize=12, fontweight="bold", color=INK, pad=12)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axis.set_ylim(len(names) - 0.5, -0.7)
    axis.set_yticks(range(len(names)), labels=names, fontsize=12)
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
