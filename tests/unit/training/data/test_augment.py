from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from tandem.data.rows import TrainRow
from tandem.training.data.augment import Augmented, augment, is_gold


@dataclass(frozen=True)
class Piece:
    text: str
    source: str = "settings.txt"
    section: str = ""


def row(id: str = "1", answer: str = "True", source: str | None = "settings.txt") -> TrainRow:
    return TrainRow(id, question="What?", answers=(answer,), source=source)


GOLD = Piece("Default: True")
OTHERS = [Piece(f"distractor {n}", source="other.txt") for n in range(6)]


def run(rows: list[TrainRow], found: list[list[Piece]], without_gold: float = 0.0, seed: int = 0) -> Augmented[Piece]:
    return augment(rows, found, passages=3, without_gold=without_gold, seed=seed)


def test_gold_is_among_the_passages_even_when_it_ranks_low() -> None:
    result = run([row()], [[*OTHERS, GOLD]])
    assert GOLD in result.contexts[0]
    assert set(result.contexts[0]) == {GOLD, OTHERS[0], OTHERS[1]}
    assert (result.with_gold, result.without_gold, result.not_found) == (1, 0, 0)


def test_the_highest_ranked_of_several_is_the_gold_one() -> None:
    second = Piece("Also True here")
    result = run([row()], [[OTHERS[0], GOLD, OTHERS[1], OTHERS[2], second]])
    assert set(result.contexts[0]) == {GOLD, OTHERS[0], OTHERS[1]}


def test_the_same_answer_in_another_document_is_no_gold() -> None:
    elsewhere = Piece("Default: True", source="other.txt")
    result = run([row()], [[elsewhere, *OTHERS]])
    assert result.not_found == 1
    assert set(result.contexts[0]) == {elsewhere, OTHERS[0], OTHERS[1]}


def test_without_a_source_the_answer_alone_decides() -> None:
    elsewhere = Piece("Default: True", source="other.txt")
    assert run([row(source=None)], [[*OTHERS, elsewhere]]).with_gold == 1


def test_withheld_gold_leaves_no_passage_with_the_answer() -> None:
    result = run([row()], [[GOLD, Piece("True again"), *OTHERS]], without_gold=1.0)
    assert set(result.contexts[0]) == set(OTHERS[:3])
    assert result.without_gold == 1


def test_the_share_without_gold_is_about_what_was_asked_for() -> None:
    rows = [row(str(n)) for n in range(1000)]
    result = run(rows, [[GOLD, *OTHERS]] * 1000, without_gold=0.2)
    assert result.with_gold + result.without_gold == 1000
    assert 150 < result.without_gold < 250


def test_gold_stands_at_every_place() -> None:
    result = run([row(str(n)) for n in range(60)], [[GOLD, *OTHERS]] * 60)
    assert {context.index(GOLD) for context in result.contexts} == {0, 1, 2}


def test_a_row_gets_the_same_context_whatever_its_place() -> None:
    rows = [row(str(n)) for n in range(50)]
    order = list(range(50))
    random.Random(1).shuffle(order)
    straight = run(rows, [[GOLD, *OTHERS]] * 50, without_gold=0.5)
    shuffled = run([rows[n] for n in order], [[GOLD, *OTHERS]] * 50, without_gold=0.5)
    assert [straight.contexts[n] for n in order] == list(shuffled.contexts)


def test_another_seed_chooses_otherwise() -> None:
    rows = [row(str(n)) for n in range(50)]
    found = [[GOLD, *OTHERS]] * 50
    assert run(rows, found, 0.5, seed=0).contexts != run(rows, found, 0.5, seed=1).contexts


def test_barred_passages_give_way_to_the_next_ones_and_are_counted() -> None:
    barred = {OTHERS[0], OTHERS[2], OTHERS[5]}
    result = augment(
        [row(), row("2")], [[*OTHERS, GOLD]] * 2, passages=3, without_gold=0.0, seed=0, bars=lambda _, p: p in barred
    )
    assert [set(context) for context in result.contexts] == [{GOLD, OTHERS[1], OTHERS[3]}] * 2
    assert result.excluded == 2  # the others ranked too low to stand in a prompt


def test_a_rows_own_gold_stays_though_it_is_barred() -> None:
    result = augment([row()], [[OTHERS[0], GOLD]], passages=3, without_gold=0.0, seed=0, bars=lambda *_: True)
    assert result.contexts == ((GOLD,),)
    assert (result.with_gold, result.excluded) == (1, 1)


@pytest.mark.parametrize("without_gold", [0.0, 1.0])
def test_nothing_barred_comes_back_where_gold_is_withheld_or_not_found(without_gold: float) -> None:
    found = [GOLD, *OTHERS] if without_gold else OTHERS
    options: dict[str, Any] = {"passages": 3, "seed": 0, "bars": lambda _, passage: passage == OTHERS[1]}
    result = augment([row()], [found], without_gold=without_gold, **options)
    assert set(result.contexts[0]) == {OTHERS[0], OTHERS[2], OTHERS[3]}
    assert result.excluded == 1


def test_rows_that_ask_nothing_get_no_context() -> None:
    result = run([TrainRow("t", text="plain"), row()], [[], [GOLD]])
    assert result.contexts == ((), (GOLD,))
    assert result.with_gold + result.without_gold + result.not_found == 1


def test_any_answer_as_a_whole_word_makes_a_passage_gold() -> None:
    asks = TrainRow("1", question="Where?", answers=("nowhere", "Paris."))
    assert is_gold(asks, Piece("In Paris, of course"))
    assert not is_gold(asks, Piece("A Parisian"))
