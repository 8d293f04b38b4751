from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tandem.data.likeness import Fingerprints, find_alike
from tandem.data.rows import TrainRow, parse_training
from tandem.data.splits import content_key, question_key
from tandem.data.train_rows import (
    TrainRowsFile,
    among,
    copy_rows,
    key_bits,
    read_answers,
    read_keys,
    scan_asked,
    seen,
)

CAPITAL = "What is the capital city of France?"


def written(path: Path, *rows: TrainRow) -> Path:
    with TrainRowsFile(path) as file:
        for row in rows:
            file.add(seen(row))
    return path


def repeated(path: Path, question: str) -> list[str]:
    """Ids of the rows that ask it, or nearly."""
    found = []
    for asked, ids in scan_asked(path):
        place = int(find_alike(Fingerprints.of([question]), asked)[0])
        found += [ids[place].as_py()] if place >= 0 else []
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"question": CAPITAL, "answers": ["Paris", "City of Light"]},
        {"prompt": CAPITAL, "completion": "Paris"},
        {"messages": [{"role": "user", "content": CAPITAL}, {"role": "assistant", "content": "Paris"}]},
    ],
    ids=["question", "prompt", "messages"],
)
def test_a_row_is_found_by_what_it_asks_and_says_whatever_its_form(tmp_path: Path, row: dict[str, object]) -> None:
    path = written(tmp_path / "rows", parse_training({"id": "t1", **row}))
    assert read_keys(path).tolist() == [key_bits(question_key(CAPITAL))]
    answers = read_answers(path)
    assert answers is not None
    assert question_key("paris") in among([question_key("paris"), question_key("Rome")], answers)
    assert repeated(path, "what's the capital city of france") == ["t1"]
    assert repeated(path, "What is the capital city of Spain?") == []


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": f"Answer briefly.\nQuestion: {CAPITAL}\nAnswer:", "completion": "Paris"},
        {"text": f"Q: {CAPITAL} A: Paris. Q: Why does Django exist at all?"},
    ],
    ids=["prompt", "text"],
)
def test_a_question_among_instructions_is_found(tmp_path: Path, row: dict[str, object]) -> None:
    path = written(
        tmp_path / "rows", TrainRow("other", question="Who?", answers=("me",)), parse_training({"id": "t1", **row})
    )
    assert repeated(path, CAPITAL) == ["t1"]
    assert repeated(path, "What is the capital of Spain?") == []


def test_what_a_plain_text_answers_is_not_known(tmp_path: Path) -> None:
    qa = TrainRow("1", question=CAPITAL, answers=("Paris",))
    assert read_answers(written(tmp_path / "rows", qa, TrainRow("2", text="The fox"))) is None


def test_no_text_can_be_read_in_the_file(tmp_path: Path) -> None:
    secret = "confidential " * 30 + "merger of Initech?"
    data = written(tmp_path / "rows", TrainRow("1", question=secret, answers=("Umbrella",))).read_bytes()
    assert not [word for word in (b"confidential", b"Initech", b"initech", b"Umbrella", b"umbrella") if word in data]


def test_chosen_rows_are_copied_whole_and_in_order(tmp_path: Path) -> None:
    rows = [
        TrainRow(f"t{n}", question=f"Is {n} a {'very ' * (n % 50)}large number?", answers=(f"{n}", "so so")[: n % 3])
        for n in range(9000)
    ]
    chosen = np.array([n % 3 == 1 for n in range(9000)])
    source = written(tmp_path / "all", *rows)
    copy_rows(source, tmp_path / "some", chosen)
    expected = written(tmp_path / "expected", *(row for row, kept in zip(rows, chosen, strict=True) if kept))
    assert read_keys(tmp_path / "some").tolist() == [
        key_bits(content_key(row)) for row in rows if int(row.id[1:]) % 3 == 1
    ]
    for (some, ids), (wanted, names) in zip(scan_asked(tmp_path / "some"), scan_asked(expected), strict=True):
        assert ids.to_pylist() == names.to_pylist()
        assert some.words.tolist() == wanted.words.tolist()
        assert some.long.tolist() == wanted.long.tolist()
        assert some.signatures.tolist() == wanted.signatures.tolist()


def test_a_file_of_no_rows_is_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "rows")
    assert read_keys(path).tolist() == []
    assert repeated(path, CAPITAL) == []
