"""The report in headless Chromium: what a reader sees first, finds, and can't be harmed by.

`TANDEM_PICTURES=docs/images pytest tests/unit/evaluation/report/test_page.py -k picture` makes those in the docs anew.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from stand_ins.browser import Tab, find_chromium, open_tab
from stand_ins.comparisons import Runs, first_of, report_of, simulate, simulate_labels

from tandem.evaluation.report.building import Inputs
from tandem.evaluation.report.render import html

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package `chromium`")
EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
ITEMS = "[...document.querySelectorAll('#items article')]"


def write(simulated: tuple[Inputs, Runs], path: Path) -> Path:
    _, data = report_of(simulated)
    path.write_text(
        html(data | {"created_at": "2026-11-20T08:00:00+00:00"}, first_of(simulated[1]), simulated[0].slices)
    )
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(simulate(120, seeds=2), tmp_path_factory.mktemp("report") / "report.html")


@contextmanager
def opened(page: Path, profile: Path, *, width: int = 1280, height: int = 800) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with open_tab(CHROMIUM, profile, width=width, height=height) as tab:
        tab.call("Emulation.setScrollbarsHidden", hidden=True)
        tab.call("Page.navigate", url=page.as_uri())
        tab.until("document.readyState === 'complete' && document.getElementById('count').textContent")
        tab.run("document.documentElement.style.scrollBehavior = 'auto'")
        yield tab
        # Whatever a test did: nothing was asked of anybody, refused, or broken.
        assert {event["request"]["url"] for event in tab.of("Network.requestWillBeSent")} == {page.as_uri()}
        assert [entry["entry"]["text"] for entry in tab.of("Log.entryAdded")] == []
        assert tab.of("Runtime.exceptionThrown") == []
        assert tab.of("Runtime.consoleAPICalled") == []


@pytest.fixture
def tab(page: Path, tmp_path: Path) -> Iterator[Tab]:
    with opened(page, tmp_path) as tab:
        yield tab


def choose(tab: Tab, select: str, option: str) -> None:
    """As a person does: by what stands there."""
    tab.run(f"""(() => {{
        const select = document.getElementById('{select}');
        select.value = [...select.options].find(option => option.text === '{option}').value;
        select.dispatchEvent(new Event('input', {{bubbles: true}}));
    }})()""")


def search(tab: Tab, words: str) -> None:
    tab.run("document.getElementById('search').focus(); document.getElementById('search').select()")
    tab.write(words)


def count(tab: Tab) -> int:
    return int(tab.run("document.getElementById('count').textContent").split(" of ")[0])


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_says_which_arm_and_how_sure(page: Path, tmp_path: Path, width: int, height: int) -> None:
    with opened(page, tmp_path, width=width, height=height) as tab:
        for selector, said in (("h1", "Choose raft"), (".sentence", "raft wins: it answers"), ("#sure", "Very sure.")):
            box = tab.run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
            assert box["top"] >= 0
            assert box["bottom"] <= height
            assert box["right"] <= width
            assert said in tab.run(f"document.querySelector('{selector}').innerText")
        size = float(tab.run("getComputedStyle(document.querySelector('h1')).fontSize").removesuffix("px"))
        assert size >= 36
        assert tab.run("document.documentElement.scrollWidth") <= width
        if width > 600:  # the bars with their intervals, and what each arm costs, are on it too
            assert tab.run("document.querySelector('.glance tbody').getBoundingClientRect().bottom") <= height


def test_items_are_filtered_searched_and_sorted(tab: Tab) -> None:
    assert count(tab) == 120
    assert tab.run(f"{ITEMS}.length") == 15
    choose(tab, "outcome", "the arms disagree")
    disagreeing = count(tab)
    choose(tab, "outcome", "no arm is right")
    assert 0 < count(tab) < 120 - disagreeing + 1
    choose(tab, "outcome", "wrong: rambling")
    choose(tab, "arm", "rag")
    chips = tab.run(
        f"{ITEMS}.map(i => [...i.querySelectorAll('tr')].find(r => r.firstChild.textContent === 'rag').innerText)"
    )
    assert chips
    assert all("rambling" in chip for chip in chips)
    tab.run("document.getElementById('reset').click()")
    tab.until("document.getElementById('count').textContent === '120 of 120'")
    # Two words, in any order, in the question and in a passage that only some were shown.
    search(tab, "sessionid cookie_name")
    assert 0 < count(tab) < 20
    assert "SESSION_COOKIE_NAME" in tab.run(f"{ITEMS}[0].innerText")
    search(tab, "no such words")
    assert count(tab) == 0
    search(tab, " ")
    choose(tab, "arm", "raft")
    choose(tab, "sort", "lowest F1")
    first = tab.run(f"{ITEMS}[0].querySelector('.figures').innerText")
    choose(tab, "sort", "highest F1")
    assert (first[:7], tab.run(f"{ITEMS}[0].querySelector('.figures').innerText")[:7]) == ("F1 0.00", "F1 1.00")
    choose(tab, "sort", "slowest")
    slow = tab.run(
        f"{ITEMS}.map(i => parseFloat(i.querySelector('.figures').innerText.split('·')[1].replace(',', '')))"
    )
    assert slow == sorted(slow, reverse=True)
    choose(tab, "sort", "file order")
    assert tab.run(f"{ITEMS}[0].querySelector('.meta').innerText").startswith("q0000")


def test_an_item_shows_its_passages_and_where_the_answer_stands(tab: Tab) -> None:
    choose(tab, "outcome", "right")
    choose(tab, "arm", "raft")
    tab.run(f"{ITEMS}[0].querySelector('details').open = true")
    assert tab.run(f"{ITEMS}[0].querySelector('summary').innerText") == "3 retrieved passages"
    gold = f"{ITEMS}[0].querySelector('.passage.gold')"
    answer = tab.run(f"{ITEMS}[0].querySelector('.wanted b').innerText")
    assert "the gold document" in tab.run(f"{gold}.innerText")
    assert tab.run(f"{gold}.querySelector('mark').innerText").lower() == answer.lower()


def test_by_keyboard(tab: Tab) -> None:
    tab.run("document.getElementById('search').focus()")
    for expected in ("arm", "outcome", "sort"):
        tab.press("Tab")
        assert tab.run("document.activeElement.id") == expected
    tab.run("document.getElementById('more').focus()")
    tab.press("Enter")
    assert tab.run(f"{ITEMS}.length") == 30
    assert tab.run(f"{ITEMS}.indexOf(document.activeElement)") == 15, "one reads on where the new ones begin"
    # A table that is wider than the screen can be scrolled without a mouse.
    assert tab.run("[...document.querySelectorAll('.scroll[tabindex]')].every(s => s.ariaLabel)")


def test_every_control_and_table_has_a_name(tab: Tab) -> None:
    assert tab.run("[...document.querySelectorAll('input, select')].every(c => c.labels.length === 1)")
    assert tab.run("[...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent.trim())")
    assert tab.run("[...document.querySelectorAll('figure svg')].every(s => s.getAttribute('aria-label'))")
    headings = tab.run("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_no_label_of_a_plot_lies_on_another(tab: Tab) -> None:
    plots = tab.run("""[...document.querySelectorAll('figure svg')].map(svg => [...svg.querySelectorAll('text')]
        .filter(text => text.textContent.trim())
        .map(text => [text.textContent, text.getBoundingClientRect().toJSON()]))""")
    assert len(plots) == 3
    for plot in plots:
        for (one, a), (other, b) in combinations(plot, 2):
            apart = (
                a["right"] <= b["left"] or b["right"] <= a["left"] or a["bottom"] <= b["top"] or b["bottom"] <= a["top"]
            )
            assert apart, (one, other)


def test_text_is_dark_enough_on_every_cell_of_a_heat_map(tab: Tab) -> None:
    worst = tab.run("""(() => {
        const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const light = (color) => {
            canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
                .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        return Math.min(...[...document.querySelectorAll('.heat td, .wrong td')].map(cell => {
            const paper = light(getComputedStyle(cell).backgroundColor);
            const ink = light(getComputedStyle(cell.querySelector('small') ?? cell).color);
            return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
        }));
    })()""")
    assert worst >= 4.5


def test_on_paper(page: Path, tmp_path: Path) -> None:
    from pypdf import PdfReader

    # A4 without its margins, in pixels.
    with opened(page, tmp_path, width=690, height=1010) as tab:
        tab.call("Emulation.setEmulatedMedia", media="print")
        for hidden in ("form", "nav", "#more"):
            assert tab.run(f"getComputedStyle(document.querySelector('{hidden}')).display") == "none"
        assert tab.run("document.documentElement.scrollWidth") <= 690, "nothing is cut off at the right"
        pdf = tab.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
    first, *others = PdfReader(io.BytesIO(base64.b64decode(pdf))).pages
    assert "Choose raft" in first.extract_text()
    assert "Very sure" in first.extract_text()
    assert 3 <= len(others) <= 15


def test_what_the_data_says_is_text(tmp_path: Path) -> None:
    inputs, runs = simulate(12, arms=["base", "rag"])
    evil = {
        arm: [
            [
                replace(i, question=EVIL, answers=(EVIL,), prediction=EVIL,
                        passages=tuple(replace(p, source=EVIL, section=EVIL, text=EVIL) for p in i.passages))
                for i in items
            ]
            for items in each
        ]
        for arm, each in runs.items()
    }  # fmt: skip
    values = {EVIL: {item.id: EVIL for item in runs["rag"][0]}}
    page = write((replace(inputs, slices=values, notes=[EVIL], engine=EVIL), evil), tmp_path / "evil.html")
    with opened(page, tmp_path / "profile", width=390, height=844) as tab:
        tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert tab.run("document.title") == "django: Nothing to choose from"
        assert tab.run("document.images.length") == 0
        assert tab.run(f"{ITEMS}[0].querySelector('h3').textContent") == EVIL
        assert tab.run("document.documentElement.scrollWidth") <= 390


def test_labels(tmp_path: Path) -> None:
    with opened(write(simulate_labels(80), tmp_path / "labels.html"), tmp_path / "profile") as tab:
        assert "of 80 texts" in tab.run("document.querySelector('.glance caption').innerText")
        choose(tab, "outcome", "wrong: neighbours not followed")
        assert 0 < count(tab) < 80
        choose(tab, "sort", "wrong first")
        tab.run(f"{ITEMS}[0].querySelector('details').open = true")
        assert "the right label" in tab.run(f"{ITEMS}[0].innerText")


PICTURES = {
    "report-first-screen": (1280, 640, None),
    "report-cost": (1280, 690, "cost"),
    "report-slices": (1280, 700, "slices"),
    "report-mistakes": (1280, 560, "browse"),
    "report-items": (1280, 960, "filter"),
    "report-phone": (390, 844, None),
}


def test_the_pictures_in_the_docs(tmp_path: Path) -> None:
    folder = Path(os.environ.get("TANDEM_PICTURES") or tmp_path / "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    page = write(simulate(160), tmp_path / "report.html")
    for name, (width, height, section) in PICTURES.items():
        with opened(page, tmp_path / name, width=width, height=height) as tab:
            if section is not None:
                tab.run(f"{ITEMS}[0].querySelector('details').open = true")
                tab.run(f"document.getElementById('{section}').scrollIntoView()")
            tab.picture(folder / f"{name}.png")
        assert 5_000 < (folder / f"{name}.png").stat().st_size < 300_000
