"""The pictures of a report as SVG that stands inside the page: arms with intervals, and quality against cost."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tandem.evaluation.figures.measures import BY_NAME
from tandem.evaluation.report.text import Data, leaders, money, price, ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

ACCENT, QUIET, CEILING, INK, GRID = "#0b6e69", "#5b6b7a", "#8a6516", "#1c2733", "#dfe5ea"
ROW_INCHES = 0.36
WIDTH_INCHES = 5.0
# Axes of shares end at the first of these that holds all intervals; those of scores as high as this begin above 0.
ENDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
HIGH_START = 0.5
# Prices further apart than this need a logarithmic axis.
DECADE = 10.0
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tandem",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the lay-out doesn't depend on the machine's fonts
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": QUIET,
    "ytick.color": INK,
    "text.parse_math": False,
}
# A line is looked at in so many places when a label is kept off it.
STEPS = 40
# Where a label may stand beside its point, in points: the first place that is free is taken.
PLACES = (
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
    (7, 8, "left", "bottom"), (-7, 8, "right", "bottom"), (7, -8, "left", "top"), (-7, -8, "right", "top"),
    (14, 18, "left", "bottom"), (-14, 18, "right", "bottom"), (14, -18, "left", "top"), (-14, -18, "right", "top"),
)  # fmt: skip


def axis_ends(report: Data, metric: str) -> tuple[float, float]:
    """Where an axis of a metric begins and ends, so that all intervals fit and differences can be seen."""
    whole = BY_NAME[metric].high
    bounds = [bound / whole for arm in report["arms"].values() for bound in arm["ci95"].get(metric, ())]
    high = next((end for end in ENDS if end >= max(bounds, default=1.0)), 1.0)
    return whole * (HIGH_START if min(bounds, default=0.0) >= HIGH_START else 0.0), whole * high


def _on_axis(metric: str, value: float, digits: int = 0, unit: str = " %") -> str:
    """A figure: a share as per cent, what goes to a hundred as it is."""
    measure = BY_NAME[metric]
    return f"{measure.points(value):.{digits}f}{unit if measure.high <= 1.0 else ''}"


def color_of(report: Data, name: str) -> str:
    """Leading arms stand out, ceilings are apart."""
    return CEILING if not report["arms"][name]["candidate"] else ACCENT if name in leaders(report) else QUIET


def forest_plot(report: Data, metric: str) -> str:
    """Every arm's figure with its 95 % interval, best first.

    Args:
        report: A report.json, as data.
        metric: Which figure.

    Returns:
        An ``<svg>`` element; equal reports give equal text.
    """
    names = [name for name in ranked(report) if report["arms"][name]["metrics"].get(metric) is not None]
    title = BY_NAME[metric].title

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        low, high = axis_ends(report, metric)
        for row, name in enumerate(names):
            _interval_row(axis, report, name, metric, row)
        axis.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8)
        axis.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_yticks(range(len(names)), labels=names, fontsize=10.5)
        axis.xaxis.set_major_formatter(lambda value, _: _on_axis(metric, value))
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", color=GRID)
        _bare(axis)

    return _svg(draw, (WIDTH_INCHES, 0.75 + ROW_INCHES * len(names)), f"forest-{metric}", f"{title} of each arm")


def _interval_row(axis: Axes, report: Data, name: str, metric: str, row: int) -> None:
    arm, color = report["arms"][name], color_of(report, name)
    value, bounds = arm["metrics"][metric], arm["ci95"][metric]
    axis.plot(bounds, [row, row], color=color, linewidth=3, solid_capstyle="round", alpha=0.45)
    _dot(axis, value, row, color, filled=arm["candidate"])
    low, high = (_on_axis(metric, bound, 1, "") for bound in bounds)
    said = f"{_on_axis(metric, value, 1)} ({low} to {high})"
    axis.annotate(
        said, (1.02, row), xycoords=("axes fraction", "data"), va="center", color=color, annotation_clip=False
    )


def cost_plot(report: Data) -> str:
    """The primary metric with its interval against the price of a thousand questions, training spread over them.

    A thin line to the left of an arm begins at its price without training. The dashed line joins the candidates of
    which no other one is both better and cheaper.

    Args:
        report: A report.json, as data.

    Returns:
        An ``<svg>`` element; equal reports give equal text.
    """
    metric, arms = report["verdict"]["metric"], report["arms"]
    names = [name for name in ranked(report) if arms[name]["metrics"].get(metric) is not None]
    prices = {name: price(arms[name]) for name in names}
    values = {name: arms[name]["metrics"][metric] for name in names}
    everything = [*prices.values(), *(arms[name]["cost"]["per_1k"] for name in names)]
    logarithmic = min(everything) > 0 and max(everything) >= DECADE * min(everything)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        if logarithmic:
            axis.set_xscale("log")
        for name in names:
            color, bare = color_of(report, name), arms[name]["cost"]["per_1k"]
            axis.plot([bare, prices[name]], [values[name]] * 2, color=color, linewidth=1, alpha=0.5)
            axis.plot([prices[name]] * 2, arms[name]["ci95"][metric], color=color, linewidth=3, alpha=0.35)
            _dot(axis, prices[name], values[name], color, filled=arms[name]["candidate"])
        best = _frontier({name: (prices[name], values[name]) for name in names if arms[name]["candidate"]})
        axis.plot([x for x, _ in best], [y for _, y in best], "--", color=ACCENT, linewidth=1, alpha=0.7, zorder=1)
        low, high = axis_ends(report, metric)
        axis.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        if not logarithmic:
            axis.set_xlim(-0.06 * (max(everything) or 1.0), 1.3 * (max(everything) or 1.0))
        else:
            axis.set_xlim(min(everything) / 1.5, max(everything) * 2.5)
        axis.set_ylabel(BY_NAME[metric].title)
        axis.set_xlabel("price of 1,000 questions, training included" + (" (logarithmic)" if logarithmic else ""))
        _price_ticks(axis, logarithmic=logarithmic)
        axis.yaxis.set_major_formatter(lambda value, _: _on_axis(metric, value))
        axis.grid(color=GRID)
        _bare(axis)
        points = {name: (prices[name], values[name]) for name in names}
        marks = {name: _marks(arms[name], prices[name], metric) for name in names}
        _label(figure, axis, points, marks, best, report)

    return _svg(draw, (WIDTH_INCHES, 3.7), "cost", f"{BY_NAME[metric].title} of each arm against its price")


def _marks(arm: Data, x: float, metric: str) -> tuple[float, float, float, float]:
    """What an arm's marks cover, in data: left, right, lower and upper end."""
    low, high = arm["ci95"][metric]
    return min(x, arm["cost"]["per_1k"]), x, low, high


def _frontier(points: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that no other one beats in both price and quality, cheapest first."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def _price_ticks(axis: Axes, *, logarithmic: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if logarithmic:
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 1000 * low else (1.0, 3.0), numticks=9))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(lambda value, _: money(value))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=2))
        axis.ticklabel_format(axis="x", style="plain", useOffset=False)


def _label(
    figure: Figure,
    axis: Axes,
    points: Mapping[str, tuple[float, float]],
    marks: Mapping[str, tuple[float, float, float, float]],
    line: Sequence[tuple[float, float]],
    report: Data,
) -> None:
    """Write each arm's name where it covers nothing, as far as that is possible."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    to_pixels, frame = axis.transData.transform, axis.get_window_extent(renderer)
    taken: list[Bbox] = []
    for name, (left, right, low, high) in marks.items():
        (x0, y0), (x1, y1) = to_pixels([(points[name][0], low), (points[name][0], high)])
        taken.append(Bbox([[x0 - 3, y0 - 3], [x1 + 3, y1 + 3]]))
        (x0, y0), (x1, y1) = to_pixels([(left, points[name][1]), (right, points[name][1])])
        taken.append(Bbox([[x0 - 6, y0 - 6], [x1 + 6, y1 + 6]]))
    for begin, end in pairwise(to_pixels(line) if len(line) > 1 else ()):
        steps = [begin + (end - begin) * step / STEPS for step in range(STEPS + 1)]
        taken += [Bbox([[x - 2, y - 2], [x + 2, y + 2]]) for x, y in steps]
    for name, point in points.items():
        best: tuple[float, Annotation | None] = (float("inf"), None)
        for dx, dy, ha, va in PLACES:
            label = axis.annotate(
                name, point, xytext=(dx, dy), textcoords="offset points", ha=ha, va=va,
                fontsize=10, fontweight="bold", color=color_of(report, name),
            )  # fmt: skip
            box = label.get_window_extent(renderer)
            covered = sum(_overlap(box, other) for other in taken) + 4 * (_area(box) - _overlap(box, frame))
            if covered < best[0]:
                if best[1] is not None:
                    best[1].remove()
                best = (covered, label)
            else:
                label.remove()
        assert best[1] is not None
        taken.append(best[1].get_window_extent(renderer))


def _area(box: Bbox) -> float:
    return float(box.width * box.height)


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(width * height) if width > 0 and height > 0 else 0.0


def _dot(axis: Axes, x: float, y: float, color: str, *, filled: bool) -> None:
    face = color if filled else "white"
    axis.plot([x], [y], "o", markersize=8, color=color, markerfacecolor=face, markeredgewidth=1.8, zorder=3)


def _bare(axis: Axes) -> None:
    axis.set_axisbelow(True)
    axis.tick_params(which="both", length=0)
    for side in axis.spines.values():
        side.set_visible(False)


def _svg(draw: Any, size: tuple[float, float], name: str, label: str) -> str:
    """Draw a figure and make its SVG fit to stand in a page beside others.

    Args:
        draw: Draws into a matplotlib figure.
        size: Width and height, inches.
        name: Goes before all of its ids.
        label: For whoever doesn't see it.
    """
    # The object interface: pyplot keeps state of its own and looks for a display.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # The page scales it: its own size would overflow a narrow window.
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{label}">{rest}'
