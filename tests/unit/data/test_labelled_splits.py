from __future__ import annotations

import random
from collections import Counter

import pytest

from tandem.data.labelled import LabelledRow
from tandem.data.labelled_splits import LabelledSplit, split_labelled
from tandem.errors import DataError


def row(text: str, label: str, id: str | None = None) -> LabelledRow:
    return LabelledRow(id or text, text, label)


def divide(rows: list[LabelledRow], held_out: list[LabelledRow] | None = None, share: float = 0.25) -> LabelledSplit:
    return split_labelled(rows, held_out, eval_fraction=share, where="rows.csv")


MANY = [row(f"{label} text {n}", label) for label, count in (("a", 80), ("b", 16), ("c", 4)) for n in range(count)]


def test_every_class_gives_its_share() -> None:
    split = divide(MANY)
    assert Counter(r.label for r in split.eval) == {"a": 20, "b": 4, "c": 1}
    assert Counter(r.label for r in split.train) == {"a": 60, "b": 12, "c": 3}


def test_the_order_of_rows_decides_nothing() -> None:
    shuffled = MANY.copy()
    random.Random(1).shuffle(shuffled)
    assert {r.id for r in divide(shuffled).eval} == {r.id for r in divide(MANY).eval}


def test_what_stands_twice_is_left_out_and_counted() -> None:
    split = divide([*MANY, row("A text 3!", "a"), row("a  TEXT 3", "a")])
    assert split.duplicates == 2
    assert len(split.train) + len(split.eval) == len(MANY)


def test_a_text_with_two_labels_is_set_aside_whole() -> None:
    split = divide([*MANY, row("unclear", "a"), row("Unclear.", "b", "other")])
    assert [fault.reason for fault in split.contradictions] == ["the same text has the labels a, b"] * 2
    assert split.duplicates == 0
    assert "unclear" not in {r.id for r in (*split.train, *split.eval)}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_near_duplicates_are_on_one_side(share: float) -> None:
    words = random.Random(0)
    rows = []
    for number in range(40):
        text = [words.choice("abcdefghij") * 3 + str(words.randrange(999)) for _ in range(80)]
        for version in range(3):
            rows.append(row(" ".join([*text, f"version{version}"]), "ab"[number % 2], f"{number}-{version}"))
    split = divide(rows, share=share)
    sides = [{r.id.split("-")[0] for r in side} for side in (split.train, split.eval)]
    assert not sides[0] & sides[1]
    assert split.near_duplicates == 80
    assert len(split.eval) == pytest.approx(share * 120, abs=4)


def test_a_class_of_one_row_is_learnt_from() -> None:
    split = divide([*MANY, row("alone", "d")])
    assert "alone" in {r.id for r in split.train}


def test_nothing_is_held_out_where_nothing_is_asked_for() -> None:
    assert divide(MANY, share=0.0).eval == ()


def test_an_evaluation_file_takes_its_texts_out_of_training() -> None:
    held_out = [row("a text 3", "a"), row("new", "b")]
    split = divide(MANY, held_out)
    assert split.leaked == 1
    assert "a text 3" not in {r.id for r in split.train}
    assert split.eval == tuple(held_out)


def test_nothing_left_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match=r"rows\.csv: no row is left to learn from \(lower data\.eval_fraction\)"):
        divide(MANY, share=1.0)
    with pytest.raises(DataError, match=r"data\.eval holds the same texts"):
        divide(MANY, MANY)
