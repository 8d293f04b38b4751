from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tandem.data.rows import TrainRow
from tandem.data.sources import DataFile
from tandem.training.data.held_out import HeldOut, survey


@dataclass(frozen=True)
class Piece:
    text: str
    source: str
    section: str = ""


def qa(number: int, source: str | None) -> dict[str, Any]:
    row = {"id": f"r{number}", "question": f"What is {number}?", "answers": [f"answer{number}"]}
    return row if source is None else row | {"source": source}


def asking(number: int, source: str | None = None) -> TrainRow:
    return TrainRow(f"r{number}", question=f"What is {number}?", answers=(f"answer{number}",), source=source)


@pytest.fixture
def kept_back(tmp_path: Path) -> Callable[..., HeldOut]:
    def run(train: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]], found: Sequence[Piece] = ()) -> HeldOut:
        files = []
        for name, rows in (("train", train), ("eval", held)):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files.append([DataFile.local(path)])
        return survey(files[0], files[1], eval_fraction=0.5, search=lambda questions: [found] * len(questions))

    return run


def test_a_document_that_only_held_out_rows_ask_about_is_barred_whole(kept_back: Callable[..., HeldOut]) -> None:
    held = kept_back([qa(1, "a.md")], [qa(2, "b.md"), qa(3, "b.md")])
    assert held.bars(asking(1), Piece("anything", "b.md"))
    assert not held.bars(asking(1), Piece("anything", "a.md"))
    assert not held.bars(asking(1), Piece("anything", "nobody-asks.md"))
    assert held.sharing == 0


def test_of_a_shared_document_only_what_answers_a_held_out_question_is_barred(
    kept_back: Callable[..., HeldOut],
) -> None:
    gold, other, elsewhere = Piece("so answer2", "a.md"), Piece("so answer1", "a.md"), Piece("so answer2", "c.md")
    held = kept_back([qa(1, "a.md")], [qa(2, "a.md"), qa(3, "b.md")], [other, elsewhere, gold])
    assert held.bars(asking(1), gold)
    assert not held.bars(asking(1), other)
    assert not held.bars(asking(1), elsewhere)
    assert held.sharing == 1


def test_without_sources_the_answers_alone_tell(kept_back: Callable[..., HeldOut]) -> None:
    gold = Piece("so answer2", "a.md")
    held = kept_back([qa(1, None)], [qa(2, None)], [gold, Piece("noise", "a.md")])
    assert held.bars(asking(1), gold)
    assert not held.bars(asking(1), Piece("noise", "a.md"))


def test_what_is_held_out_gets_its_passages_as_they_will_be_served(kept_back: Callable[..., HeldOut]) -> None:
    held = kept_back([qa(1, "a.md")], [qa(2, "b.md")], [Piece("so answer2", "b.md")])
    assert not held.bars(asking(2, "b.md"), Piece("so answer2", "b.md"))


def test_a_training_row_that_asks_what_is_held_out_makes_no_document_a_training_one(
    kept_back: Callable[..., HeldOut],
) -> None:
    held = kept_back([qa(1, "a.md"), {**qa(2, "b.md"), "id": "copy"}], [qa(2, "b.md")])
    assert held.documents == {"b.md"}


def test_a_share_of_one_file_is_kept_back_as_it_is_split(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [qa(number, f"{number}.md") for number in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked: list[str] = []

    def search(questions: Sequence[str]) -> list[list[Piece]]:
        asked.extend(questions)
        return [[] for _ in questions]

    held = survey([DataFile.local(path)], None, eval_fraction=0.25, search=search)
    assert len(asked) == len(held.rows) == len(held.documents) == 5
    assert held.documents == {row["source"] for row in rows if row["question"] in asked}
