from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tandem.data.rows import parse_training, read_qa, scan_training
from tandem.data.sources import DataFile
from tandem.errors import DataError


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_questions_from_jsonl_csv_and_parquet_are_the_same(tmp_path: Path) -> None:
    rows = [
        {"question": "q1", "answers": ["a", "b"], "source": "s.txt"},
        {"question": "q2", "answers": ["c"], "source": None},
    ]
    paths = [write(tmp_path / "a.jsonl", *rows), tmp_path / "a.csv", tmp_path / "a.parquet"]
    paths[1].write_text('question,answers,source\nq1,"[""a"", ""b""]",s.txt\nq2,c,\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), paths[2])
    for path in paths:
        read = read_qa(path, quarantine=tmp_path / "q.jsonl", max_quarantined=0)
        assert [(row.question, row.answers, row.source) for row in read] == [
            ("q1", ("a", "b"), "s.txt"),
            ("q2", ("c",), None),
        ]
    assert len({row.id for row in read}) == 2
    assert not (tmp_path / "q.jsonl").exists()


def test_ids_are_given_or_come_from_the_content(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", {"id": 7, "question": "q", "answers": "a", "kind": "x"}, {"question": "q", "answers": 5}
    )
    first, second = read_qa(path, quarantine=tmp_path / "q", max_quarantined=0)
    assert (first.id, first.extra) == ("7", {"kind": "x"})
    assert second.answers == ("5",)
    again = write(tmp_path / "b.jsonl", {"question": "q", "answers": ["5"], "note": "other"})
    assert read_qa(again, quarantine=tmp_path / "q", max_quarantined=0)[0].id == second.id


BAD = [
    ("{", "not JSON"),
    ("[1]", "JSON object"),
    ({"answers": ["a"]}, "no `question`"),
    ({"question": "q"}, "no `answers`"),
    ({"question": "q", "answers": []}, "empty list"),
    ({"question": "q", "answers": [""]}, "empty answer"),
    ({"question": "q", "answers": True}, "must be a string"),
    ({"question": "q", "answers": {"a": 1}}, "must be a string"),
    ({"question": 3, "answers": "a"}, "must be a string"),
    ({"question": " ", "answers": "a"}, "is empty"),
    ({"question": "q", "answers": "a", "source": 3}, "`source` must be"),
    (r'{"question": "half a \uD83D", "answers": "a"}', "lone surrogate"),
    ({"question": "good", "answers": "a"}, "same row stands in line 1"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_row_is_set_aside_with_file_line_and_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "good", "answers": "a"}, row)
    quarantine = tmp_path / "job" / "quarantine.jsonl"
    (good,) = read_qa(path, quarantine=quarantine, max_quarantined=0.5)
    assert good.question == "good"
    (line,) = quarantine.read_text().splitlines()
    record = json.loads(line)
    assert (record["file"], record["line"]) == (str(path), 2)
    assert reason in record["reason"]


def test_too_many_bad_rows_fail_with_counts_and_the_quarantine_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *({"question": f"q{n}", "answers": "a"} for n in range(8)), "{", "{")
    quarantine = tmp_path / "quarantine.jsonl"
    assert len(read_qa(path, quarantine=quarantine, max_quarantined=0.2)) == 8
    with pytest.raises(DataError, match="2 of 10 rows") as caught:
        read_qa(path, quarantine=quarantine, max_quarantined=0.19)
    assert f"{path}:9" in caught.value.what
    assert str(quarantine) in str(caught.value.remedy)


def test_a_row_that_is_not_utf8_is_only_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "q", "answers": "a"}\n{"question": "caf\xe9", "answers": "a"}\n')
    assert len(read_qa(path, quarantine=tmp_path / "q", max_quarantined=0.5)) == 1
    assert "not UTF-8" in json.loads((tmp_path / "q").read_text())["reason"]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match="no rows"):
        read_qa(tmp_path / "a.jsonl", quarantine=tmp_path / "q", max_quarantined=1)


def test_a_file_of_bad_rows_alone_is_an_error_whatever_the_limit(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", "{")
    with pytest.raises(DataError, match="1 of 1 rows"):
        read_qa(tmp_path / "a.jsonl", quarantine=tmp_path / "q", max_quarantined=1)


@pytest.mark.parametrize(("name", "message"), [("gone.jsonl", "no such file"), ("a.xlsx", r"\.xlsx")])
def test_a_missing_file_and_another_type_are_errors(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(DataError, match=message) as caught:
        read_qa(tmp_path / name, quarantine=tmp_path / "q", max_quarantined=0)
    assert caught.value.remedy


def test_a_csv_row_with_too_few_or_many_cells_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answers\nq1,a\nq2\nq3,a,b\n")
    assert [row.question for row in read_qa(path, quarantine=tmp_path / "q", max_quarantined=0.7)] == ["q1"]
    assert [json.loads(line)["line"] for line in (tmp_path / "q").read_text().splitlines()] == [3, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'question,answers\nq1,a\nq2,"b\nq3,c\n', r"a\.csv:3: not CSV.*check its quotes"),
        (
            "a.csv",
            b"question,answers\nq1,a\nq2,caf\xe9\n",
            r"a\.csv:3: not UTF-8 \(byte 6 of line 3\).*save it as UTF-8",
        ),
        ("a.parquet", b"PAR1", r"a\.parquet: not a Parquet file"),
    ],
)
def test_a_table_that_breaks_off_is_an_error_whatever_the_limit(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_qa(tmp_path / name, quarantine=tmp_path / "q", max_quarantined=1)
    with pytest.raises(DataError, match=message):
        list(scan_training(DataFile.local(tmp_path / name)))


def test_a_last_row_that_is_cut_off_is_set_aside_like_others(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answers": "a"}\n{"question": "q2", "ans')
    assert len(read_qa(tmp_path / "a.jsonl", quarantine=tmp_path / "q", max_quarantined=0.5)) == 1
    assert list(json.loads((tmp_path / "q").read_text())) == ["file", "line", "reason", "row"]


def test_training_rows_of_every_form(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    path = write(
        tmp_path / "a.jsonl",
        {"messages": chat},
        {"prompt": "p", "completion": "c"},
        {"question": "q", "answers": ["a", "b"], "source": "s"},
        {"text": "plain"},
    )
    rows: list[Any] = [row for _, _, row in scan_training(DataFile.local(path))]
    assert rows[0].messages == chat
    assert rows[1].messages == [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]
    assert (rows[2].question, rows[2].answers, rows[2].source) == ("q", ("a", "b"), "s")
    assert rows[3].text == "plain"
    assert [sum(form is not None for form in (row.messages, row.question, row.text)) for row in rows] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"prompt": "p"},
        {"messages": []},
        {"prompt": "p", "completion": " "},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "robot", "content": "hi"}]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": "text"},
        {"text": ""},
    ],
)
def test_rows_that_teach_nothing_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        parse_training(row)


def test_a_chat_without_an_assistant_turn_says_so() -> None:
    with pytest.raises(DataError, match="no assistant turn"):
        parse_training({"messages": [{"role": "user", "content": "hi"}]})
