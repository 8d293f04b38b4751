from __future__ import annotations

from xml.etree import ElementTree

import pytest
from stand_ins.report import arm, report

from tandem.evaluation.report.plot import axis_ends, cost_plot, forest_plot

NAMES = {"base": 0.03, "rag": 0.2, "tuned": 0.2, "tuned_rag": 0.45, "raft": 0.6, "oracle": 0.4}


def texts(svg: str) -> list[str]:
    return [
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    ]


def ids(svg: str) -> list[str]:
    return [node.attrib["id"] for node in ElementTree.fromstring(svg).iter() if "id" in node.attrib]


def test_a_forest_plot_has_every_arm_with_its_figures() -> None:
    data = report("raft", **NAMES)
    said = texts(forest_plot(data, "em"))
    assert set(NAMES) | {"Exactly right (EM)", "60.0 % (50.0 to 70.0)", "3.0 % (0.0 to 13.0)"} <= set(said)


def test_the_cost_plot_has_every_arm_and_plots_share_no_ids() -> None:
    data = report("raft", **NAMES)
    plots = [forest_plot(data, "em"), forest_plot(data, "f1"), cost_plot(data)]
    assert set(NAMES) <= set(texts(plots[-1]))
    found = [id for plot in plots for id in ids(plot)]
    assert len(found) == len(set(found))
    assert all("<metadata" not in plot and "http" not in plot.replace("http://www.w3.org/", "") for plot in plots)
    assert [forest_plot(data, "em"), forest_plot(data, "f1"), cost_plot(data)] == plots, "equal reports, equal pictures"


@pytest.mark.parametrize(("prices", "logarithmic"), [((0.5, 0.9), False), ((0.01, 5.0), True), ((0.0, 0.0), False)])
def test_prices_that_are_decades_apart_get_a_logarithmic_axis(prices: tuple[float, float], logarithmic: bool) -> None:
    data = report("raft", base=0.1, raft=0.6)
    for name, price in zip(("base", "raft"), prices, strict=True):
        cost = data["arms"][name]["cost"]
        data["arms"][name] = arm(0.3, cost=cost | {"per_1k": price, "per_1k_with_training": price})
    said = texts(cost_plot(data))
    assert any("(logarithmic)" in text for text in said) == logarithmic
    assert {"base", "raft"} <= set(said)


def test_an_axis_holds_all_intervals_and_no_more_than_it_must() -> None:
    assert axis_ends(report(None, base=0.02, raft=0.05), "em") == (0.0, 0.2)
    assert axis_ends(report(None, base=0.3, raft=0.9), "em") == (0.0, 1.0)
    assert axis_ends(report(None, base=0.7, raft=0.9), "em") == (0.5, 1.0)
    assert axis_ends({"arms": {}}, "em") == (0.0, 1.0)
