from __future__ import annotations

import random

import pytest

from tandem.data.rows import QaRow, TrainRow
from tandem.data.splits import content_key, split, split_sha256, take

ROWS = [QaRow(str(n), f"question {n // 2}", ("a",)) for n in range(100)]  # each question stands twice


def test_the_split_does_not_depend_on_the_order_and_never_parts_equal_questions() -> None:
    train, held_out = split(ROWS, 0.3)
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert {row.id for row in split(shuffled, 0.3)[1]} == {row.id for row in held_out}
    assert len(held_out) == 30
    assert not {row.question for row in train} & {row.question for row in held_out}
    assert train + held_out != ROWS
    assert sorted(train + held_out, key=lambda row: int(row.id)) == ROWS


def test_case_and_spaces_do_not_make_another_question() -> None:
    rows = [QaRow("1", "What  is x?", ("a",)), QaRow("2", "what is X?", ("b",)), QaRow("3", "y?", ("c",))]
    train, held_out = split(rows, 0.5)
    assert {row.id for row in train} in ({"1", "2"}, {"3"})
    assert train
    assert held_out


@pytest.mark.parametrize(("fraction", "sizes"), [(0.0, (3, 0)), (0.01, (2, 1)), (0.99, (1, 2)), (1.0, (0, 3))])
def test_both_sides_have_a_row_unless_none_is_wanted(fraction: float, sizes: tuple[int, int]) -> None:
    rows = [TrainRow(str(n), text=f"t{n}") for n in range(3)]
    train, held_out = split(rows, fraction)
    assert (len(train), len(held_out)) == sizes


def test_take_chooses_the_same_rows_in_any_order() -> None:
    chosen = {row.id for row in take(ROWS, 10)}
    assert len(chosen) == 10
    assert {row.id for row in take(ROWS[::-1], 10)} == chosen
    assert take(ROWS, None) == ROWS
    assert {row.id for row in take(ROWS, 11)} > chosen


def test_the_hash_of_a_split_knows_content_and_not_order() -> None:
    assert split_sha256(ROWS) == split_sha256(ROWS[::-1])
    changed = [*ROWS[:-1], QaRow(ROWS[-1].id, ROWS[-1].question, ("b",))]
    assert split_sha256(ROWS) != split_sha256(changed)


def test_rows_that_ask_or_say_the_same_have_one_key_whatever_their_form() -> None:
    asked = TrainRow("1", question="What is  X?", answers=("a",))
    turns = [{"role": "user", "content": "what is x?"}, {"role": "assistant", "content": "b"}]
    with_system = [{"role": "system", "content": "Be brief."}, *turns]
    for messages in (turns, with_system):
        assert content_key(TrainRow("2", messages=messages)) == content_key(asked)
    assert content_key(TrainRow("4", text="The fox")) == content_key(TrainRow("5", text="the  fox"))
    assert content_key(TrainRow("6", text="The fox")) != content_key(TrainRow("6", text="The dog"))
    alone = [[{"role": "assistant", "content": word}] for word in ("a", "b")]
    assert content_key(TrainRow("7", messages=alone[0])) != content_key(TrainRow("7", messages=alone[1]))
