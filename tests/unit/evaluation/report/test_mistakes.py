from __future__ import annotations

from collections.abc import Sequence

import pytest
from stand_ins.comparisons import simulate_labels

from tandem.data.rows import QaRow
from tandem.evaluation.asking.arms import Arm, Passage
from tandem.evaluation.asking.items import Answer
from tandem.evaluation.figures.scoring import ScoredItem, score
from tandem.evaluation.report.mistakes import SAYS, count_mistakes, mistake

ROW = QaRow("q", "Who?", ("Ada Lovelace",), "gold.txt")
GOLD = Passage("p", "gold.txt", "", 0.9, "It was Ada Lovelace.")
EMPTY = Passage("p2", "gold.txt", "", 0.8, "Nothing of the kind.")
OTHER = Passage("p3", "other.txt", "", 0.7, "It was Grace Hopper.")


def item(
    said: str, passages: Sequence[Passage] | None = (), *, end: str = "stop", failed: str | None = None
) -> ScoredItem:
    """An answer; of an arm without passages where they are None."""
    shown = 0 if passages is None else len(passages)
    answer = Answer("q", "", said, failed, shown, 10, 5, end, 5.0, 0.005)
    return score(Arm("rag", None, "none" if passages is None else "retrieved"), ROW, answer, passages or (), 0.0)


@pytest.mark.parametrize(
    ("answered", "wrong"),
    [
        (item("Ada Lovelace", [GOLD]), None),
        (item("", [GOLD], failed="too long"), "failed"),
        (item("I don't know.", [GOLD]), "abstained"),
        (item("I think that it was Ada Lovelace, of course", [GOLD]), "rambling"),
        # Cut off or not: what matters is that the answer was there.
        (item("I think that it was Ada Lovelace, of course", [GOLD], end="length"), "rambling"),
        (item("I think that it was, well", [GOLD], end="length"), "cut off"),
        (item("Ada King", [GOLD]), "partly right"),
        (item("Grace Hopper", [GOLD, OTHER]), "shown but not used"),
        (item("Grace Hopper", [OTHER]), "not retrieved"),
        (item("Grace Hopper", [EMPTY, OTHER]), "not in the passages"),
        (item("Grace Hopper", None), "wrong"),
    ],
)
def test_what_went_wrong(answered: ScoredItem, wrong: str | None) -> None:
    assert mistake(answered) == wrong


def test_mistakes_are_counted_by_arm() -> None:
    items = {"a": [item("Grace Hopper", [OTHER]), item("Ada Lovelace", [GOLD])], "b": [item("", None, failed="x")] * 2}
    assert count_mistakes(items) == {"failed": {"a": 0, "b": 2}, "not retrieved": {"a": 1, "b": 0}}


def test_labels_have_mistakes_of_their_own() -> None:
    _, runs = simulate_labels(80)
    counts = count_mistakes({arm: each[0] for arm, each in runs.items()})
    assert set(counts) <= {"neighbours misled", "neighbours not followed", "wrong"} <= set(SAYS)
    wrong = sum(item.scores["accuracy"] == 0.0 for item in runs["base"][0])
    assert sum(by_arm["base"] for by_arm in counts.values()) == wrong > 0
