"""report.html as text: what is on it, and that nothing on it comes from outside or runs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from stand_ins.comparisons import Runs, first_of, report_of, simulate, simulate_labels

from tandem.evaluation.figures.measures import BY_TASK
from tandem.evaluation.report import browse
from tandem.evaluation.report.building import Inputs
from tandem.evaluation.report.markdown import markdown
from tandem.evaluation.report.render import html

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would take for a script, a handler, or a reference."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script":
            self.scripts.append(given)
        self.ids += [str(given["id"])] if "id" in given else []
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []
        self.outside += [
            f"{name}={value}"
            for name, value in attrs
            if name.startswith("on")
            or (name in ("src", "href", "xlink:href", "action", "srcset", "data") and not str(value).startswith("#"))
            or (name == "style" and "url(" in str(value) and "url(#" not in str(value))
        ]


def page_of(simulated: tuple[Inputs, Runs], **changes: Any) -> str:
    inputs, runs = simulated
    _, data = report_of(simulated, **changes)
    return html(
        data | {"created_at": "2026-11-20T08:00:00+00:00"}, first_of(runs), changes.get("slices", inputs.slices)
    )


@pytest.fixture(scope="module")
def six() -> tuple[Inputs, Runs]:
    return simulate(60, seeds=2)


def test_everything_that_was_found_is_on_the_page(six: tuple[Inputs, Runs]) -> None:
    page = page_of(six)
    for arm in six[1]:
        assert f">{arm}<" in page
    for measure in BY_TASK["generation"]:
        assert measure.head in page
        assert measure.says.replace("'", "&#39;") in page
    parts = ("When training has paid for itself", "Paired tests on EM", "Paired tests on F1", "By question type",
             "By gold document retrieved", "spread over seeds", "What went wrong, by arm", "nrefs:var")  # fmt: skip
    for wanted in parts:
        assert wanted in page, wanted
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.headings[0] == "h1"
    assert parsed.headings.count("h1") == 1
    assert page_of(six) == page, "the same figures make the same page"


def test_the_page_runs_our_script_alone_and_asks_nobody(six: tuple[Inputs, Runs]) -> None:
    page = page_of(six)
    parsed = Page(page)
    assert parsed.outside == []
    assert parsed.scripts == [{"type": "application/json", "id": "data"}, {}]
    script = page.rsplit("<script>", 1)[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert "innerHTML" not in script


def test_whatever_the_data_says_is_text(six: tuple[Inputs, Runs]) -> None:
    inputs, runs = six
    evil = {
        arm: [
            [
                replace(
                    item,
                    question=EVIL,
                    answers=(EVIL,),
                    prediction=EVIL,
                    source=EVIL,
                    failure=EVIL if item.failure else None,
                    passages=tuple(
                        replace(p, source=EVIL, section=EVIL, text=EVIL, id=f"{EVIL}{place}")
                        for place, p in enumerate(item.passages)
                    ),
                )
                for item in items
            ]
            for items in each
        ]
        for arm, each in runs.items()
    }
    slices = {EVIL: {item.id: EVIL for item in runs["rag"][0]}}
    assert inputs.near_duplicates is not None
    near = inputs.near_duplicates.model_copy(update={"examples": ((EVIL, EVIL),)})
    page = page_of(
        (inputs, evil),
        slices=slices,
        notes=[EVIL],
        split_sha256=EVIL,
        train={EVIL: EVIL},
        engine=EVIL,
        index={EVIL: EVIL},
        near_duplicates=near,
    )
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page, "nor is it a template"
    parsed = Page(page)
    assert (parsed.outside, len(parsed.scripts)) == ([], 2)
    # The data is whole all the same.
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["items"][0]["arms"]["base"]["text"] == EVIL
    assert data["items"][0]["slices"] == {EVIL: EVIL}
    assert data["passages"][0] == [EVIL, EVIL, EVIL]


def test_one_arm_alone_and_nothing_to_explain() -> None:
    page = page_of(simulate(12, arms=["base"], slices=[]), slices={}, near_duplicates=None, notes=[])
    assert "Nothing to choose from" in page
    for absent in ('id="pairs"', 'id="slices"', "Paired tests", "Up is better", "spread over seeds and"):
        assert absent not in page, absent
    assert "weren't looked for" in page


def test_labels_have_their_own_measures_and_words() -> None:
    page = page_of(simulate_labels(60))
    assert "Accuracy" in page
    assert "macro-F1" in page
    assert "Text by text" in page
    assert "60 texts" in page
    for absent in ("SQuAD", "BLEU", "ROUGE", "passages (", "questions, the same"):
        assert absent not in page, absent


def test_a_page_of_many_items_says_that_it_has_not_all(
    six: tuple[Inputs, Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.evaluation.report.render.ITEMS_SHOWN", 25)
    page = page_of(six)
    assert "Below are the first 25 of 60; all are in items.parquet." in page
    assert len(json.loads(page.split('id="data">')[1].split("</script>")[0])["items"]) == 25
    assert browse.ITEMS_SHOWN <= 2000


@pytest.mark.parametrize(
    ("metric", "score"), [("rouge_l", r"\d\d.{1,6}% ROUGE-L"), ("bleu", r"\d\d\.\d BLEU"), ("chrf", r"\d\d\.\d chrF")]
)
def test_every_metric_of_a_verdict_is_printed_in_its_own_units(metric: str, score: str) -> None:
    simulated = simulate(60, primary=metric, skill={"raft": (0.9, 0.9, 0.0), "tuned_rag": (0.3, 0.1, 0.1)})
    _, data = report_of(simulated)
    page = html(data, first_of(simulated[1]), simulated[0].slices)
    assert re.search(rf"raft wins: it reaches {score} on 60 questions", page)
    assert "equal: shown to differ by less than 5 points" in page
    low, high = (data["arms"]["raft"]["ci95"][metric][end] for end in (0, 1))
    printed = f"{100 * low:.1f} to {100 * high:.1f}" if metric == "rouge_l" else f"{low:.1f} to {high:.1f}"
    # Beside the arm's dot in the plot.
    assert f"({printed})" in page
    assert "| raft |" in markdown(data)
