from __future__ import annotations

from typing import Any

import pytest

from tandem.data.rows import QaRow
from tandem.data.splits import question_key
from tandem.errors import DataError
from tandem.evaluation.figures.slices import (
    ANSWER_SEEN,
    GOLD_RETRIEVED,
    MANY_VALUES,
    QUESTION_TYPE,
    check_slices,
    question_slices,
    question_type,
    slice_value,
)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many rows are kept?", "how many"),
        ("For how long is a session valid?", "how many"),
        ("Why is it slow?", "why"),
        ("How come it fails?", "why"),
        ("How is a view cached?", "how"),
        ("Who wrote it?", "who"),
        ("Whose setting wins?", "who"),
        ("When was it added?", "when"),
        ("In which year was it added?", "when"),
        ("Where do templates lie?", "where"),
        ("Which setting names the cache?", "which or what"),
        ("What does DEBUG do?", "which or what"),
        ("Is it on by default?", "yes or no"),
        ("Does it scale?", "yes or no"),
        ("Name the default cache.", "other"),
        ("  WHAT is it?", "which or what"),
        ("The islands of whoever", "other"),
        ("What is raised when a view fails?", "which or what"),
        ("When a view fails, what is raised?", "which or what"),
        ("When was it added, and by whom?", "when"),
        ("Is it known who wrote it?", "yes or no"),
        ("If it fails, is it tried again?", "yes or no"),
    ],
)
def test_what_a_question_asks_for(question: str, kind: str) -> None:
    assert question_type(question) == kind


@pytest.mark.parametrize(
    ("extra", "value"),
    [
        ({"kind": "easy"}, "easy"),
        ({"kind": 3}, "3"),
        ({"kind": None}, "(none)"),
        ({"kind": ""}, "(none)"),
        ({}, "(none)"),
    ],
)
def test_a_row_is_counted_under_its_value(extra: dict[str, Any], value: str) -> None:
    assert slice_value(extra, "kind") == value


def test_a_column_that_no_row_has_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DataError, match="no question has a column 'kin'") as refused:
        check_slices(["kin"], [{"kind": "a"}, {"topic": "b"}], where="eval.jsonl")
    assert "kind, topic" in str(refused.value)
    check_slices(["kind"], [{"kind": "a"}, {}], where="eval.jsonl")


def test_a_column_with_a_value_for_every_row_is_refused() -> None:
    rows = [{"number": number} for number in range(MANY_VALUES + 1)]
    with pytest.raises(DataError, match=f"{MANY_VALUES + 1} values"):
        check_slices(["number"], rows, where="eval.jsonl")
    check_slices(["number"], rows[1:], where="eval.jsonl")


ROWS = [
    QaRow("1", "Who wrote it?", ("Ada",), "a.txt", {"kind": "easy"}),
    QaRow("2", "When was it?", ("1843", "in 1843"), "b.txt", {"kind": "hard"}),
    QaRow("3", "Who read it?", ("Babbage",), "c.txt"),
]


def test_what_can_be_told_of_every_question() -> None:
    slices = question_slices(["kind"], ROWS, {"1": 1.0, "2": 0.0, "3": 1.0}, frozenset({question_key("In  1843")}))
    assert list(slices) == ["kind", QUESTION_TYPE, GOLD_RETRIEVED, ANSWER_SEEN]
    assert slices["kind"] == {"1": "easy", "2": "hard", "3": "(none)"}
    assert slices[QUESTION_TYPE] == {"1": "who", "2": "when", "3": "who"}
    assert slices[GOLD_RETRIEVED] == {"1": "yes", "2": "no", "3": "yes"}
    assert slices[ANSWER_SEEN] == {"1": "no", "2": "yes", "3": "no"}


def test_what_is_not_known_or_the_same_for_all_makes_no_slice() -> None:
    assert list(question_slices([], ROWS, {"1": 1.0, "2": None, "3": 1.0}, None)) == [QUESTION_TYPE]
    assert list(question_slices([], ROWS, dict.fromkeys("123", 1.0), frozenset())) == [QUESTION_TYPE]
    assert question_slices([], ROWS[::2], {}, None) == {}


def test_a_column_of_the_users_goes_before_one_of_ours() -> None:
    rows = [QaRow(row.id, row.question, row.answers, extra={QUESTION_TYPE: "theirs"}) for row in ROWS]
    assert question_slices([QUESTION_TYPE], rows, {}, None) == {QUESTION_TYPE: dict.fromkeys("123", "theirs")}
