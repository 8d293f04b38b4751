from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tandem.data.labelled import LabelledRow, parse_labelled, read_labelled
from tandem.errors import DataError


def read(path: Path, limit: float = 0.0) -> list[LabelledRow]:
    return read_labelled(str(path), quarantine=path.parent / "quarantine.jsonl", max_quarantined=limit)


def test_tables_of_every_type_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"text": "good film", "label": "1"}, {"text": "bad, bad film", "label": "0"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({**row, "label": int(row["label"])}) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text('text,label\ngood film,1\n"bad, bad film",0\n')
    floats = [float(row["label"]) for row in rows]
    pa.parquet.write_table(pa.table({"text": [row["text"] for row in rows], "label": floats}), tmp_path / "a.parquet")
    found = [read(tmp_path / name) for name in ("a.jsonl", "a.csv", "a.parquet")]
    assert [(row.text, row.label) for row in found[0]] == [("good film", "1"), ("bad, bad film", "0")]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x"}, "no `label`"),
        ({"text": "x", "label": " "}, "`label` is empty"),
        ({"text": "x", "label": 0.5}, "must be a string or a whole number, not float"),
        ({"text": "x", "label": ["a"]}, "must be a string or a whole number, not list"),
        ({"text": " ", "label": "a"}, "`text` is empty"),
        ({"text": 7, "label": "a"}, "`text` must be a string"),
        ({"label": "a"}, "no `text`"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_labelled(row)


def test_a_folder_of_folders_is_read_as_labels_and_texts(tmp_path: Path) -> None:
    for name, text in [("b/2.txt", "two"), ("b/1.txt", "one"), ("a/3.txt", "three"), ("a/old/4.txt", "four")]:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(text)
    (tmp_path / "set" / "README.txt").write_text("no text of a label")
    rows = read(tmp_path / "set")
    assert [(row.id, row.label, row.text) for row in rows] == [
        ("a/3.txt", "a", "three"),
        ("a/old/4.txt", "a", "four"),
        ("b/1.txt", "b", "one"),
        ("b/2.txt", "b", "two"),
    ]


def test_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("text,label\nsecond,x\n")
    (tmp_path / "a.jsonl").write_text('{"text": "first", "label": "y"}\n')
    assert [row.text for row in read(tmp_path / "*")] == ["first", "second"]


def test_files_that_are_no_text_are_set_aside_and_too_many_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text("fine")
    (folder / "2.txt").write_bytes(b"\xa35 is not UTF-8")
    assert [row.id for row in read(tmp_path / "set", limit=0.5)] == ["a/1.txt"]
    assert "not UTF-8 (byte 0)" in (tmp_path / "quarantine.jsonl").read_text()
    with pytest.raises(DataError, match="1 of 2 rows can't be used"):
        read(tmp_path / "set", limit=0.1)


def test_a_folder_without_texts_and_a_file_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no file of rows here"):
        read(tmp_path / "set")
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="no rows in it"):
        read(tmp_path / "a.csv")
