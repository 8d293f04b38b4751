from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.data.quarantine import Fault
from tandem.errors import DataError
from tandem.training.data.dataset import Examples, read_ids
from tandem.training.data.encoding import Encoded
from tandem.training.data.staging import Staged


def encoded(id: str, *lengths: int, line: int = 1, file: str = "a.jsonl", **fields: Any) -> Encoded:
    ids = tuple(np.arange(length, dtype=np.int32) + 100 * line for length in lengths)
    masks = tuple(np.arange(length) > 0 for length in lengths)
    return Encoded(file, line, True, id=id, rank=id, sha256=id, input_ids=ids, loss_masks=masks, **fields)


def fill(tmp_path: Path, *batches: Sequence[Encoded]) -> Staged:
    staged = Staged(tmp_path / "staging", tmp_path / "quarantine.jsonl")
    for _ in staged.fill(batches):
        pass
    return staged


def test_chosen_rows_come_out_in_order_with_all_their_sequences(tmp_path: Path) -> None:
    staged = fill(tmp_path, [encoded("a", 3, line=1), encoded("b", 2, 4, line=2)], [encoded("c", 5, line=3)])
    written = staged.write(np.array([False, True, True]), tmp_path / "out")
    assert list(written.lengths) == [2, 4, 5]
    assert written.input_ids.tolist() == [200, 201, 200, 201, 202, 203, 300, 301, 302, 303, 304]
    assert written.loss_tokens([0, 1, 2]) == 1 + 3 + 4
    assert read_ids(tmp_path / "out") == ["b", "b", "c"]


def test_what_was_written_is_mapped_and_not_read(tmp_path: Path) -> None:
    fill(tmp_path, [encoded("a", 3)]).write(np.array([True]), tmp_path / "out")
    examples = Examples.load(tmp_path / "out")
    assert isinstance(examples.input_ids, np.memmap)
    assert isinstance(examples.loss_mask, np.memmap)


def test_a_row_that_stood_there_before_is_set_aside_whatever_batch_or_file_it_was_in(tmp_path: Path) -> None:
    staged = fill(
        tmp_path,
        [encoded("a", 3, line=1)],
        [encoded("a", 3, line=7), encoded("a", 3, line=2, file="b.jsonl")],
    )
    assert (staged.ids, staged.unread.count) == (["a"], 2)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert reasons == [
        "the id 'a' stands in line 1 already",
        "the id 'a' stands in a.jsonl:1 already",
    ]


def test_too_many_faults_are_refused_and_the_first_is_named(tmp_path: Path) -> None:
    bad = Encoded("a.jsonl", 4, False, unread=Fault("a.jsonl", 4, "not JSON"))
    staged = fill(tmp_path, [encoded(str(n), 2, line=n) for n in range(3)], [bad])
    staged.check(0.25, where="a.jsonl")
    with pytest.raises(DataError, match=r"1 of 4 rows can't be used, the first at a.jsonl:4: not JSON"):
        staged.check(0.24, where="a.jsonl")
    with pytest.raises(DataError, match="no rows"):
        Staged(tmp_path / "none", tmp_path / "q").check(1.0, where="x")


def test_staging_leaves_nothing_behind(tmp_path: Path) -> None:
    staged = fill(tmp_path, [encoded("a", 3)])
    staged.clear()
    assert not (tmp_path / "staging").exists()
