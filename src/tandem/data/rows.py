"""Questions with answers, and training rows: read, checked, and the bad ones set aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tandem.data.quarantine import Fault, check_quarantined, write_quarantine
from tandem.data.sources import DataFile
from tandem.data.tables import Row, scan_rows
from tandem.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
_ID_DIGITS = 16


@dataclass(frozen=True)
class QaRow:
    """A question with the answers that count as right.

    Args:
        id: As given, else a hash of the question and its answers.
        question: The question.
        answers: One or more; any of them is right.
        source: The gold document (`Document.source`), if it is known.
        extra: The row's other columns.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    source: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainRow:
    """One row to train on: exactly one of `messages`, `text`, and `question` with `answers`, is there.

    Args:
        id: As given, else a hash of the content.
        messages: A chat that ends with the assistant's turn; prompt/completion rows become one.
        text: Plain text, all of it to be learnt.
        question: A question, from which the prompt is built as for evaluation.
        answers: Its answers; the first is the one to learn.
        source: The gold document of a question, if it is known.
        completion: `messages` are a prompt and its completion, which a model without a chat template takes as they are.
        extra: The row's other columns.
    """

    id: str
    messages: list[dict[str, str]] | None = None
    text: str | None = None
    question: str | None = None
    answers: tuple[str, ...] = ()
    source: str | None = None
    completion: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


R = TypeVar("R", QaRow, TrainRow)


def read_qa(path: Path, *, quarantine: Path, max_quarantined: float) -> list[QaRow]:
    """Questions and answers: `question`, `answers` (a list or a string), optional `id` and `source`.

    Args:
        path: JSONL, CSV or Parquet.
        quarantine: Bad rows are appended here, with line and reason.
        max_quarantined: The share of bad rows, 0 to 1, above which the file is refused.

    Returns:
        The good rows, in the file's order.

    Raises:
        DataError: Missing, empty, or too many bad rows.
    """
    return _read(path, parse_qa, quarantine, max_quarantined)


def scan_training(file: DataFile) -> Iterator[tuple[int, bool, TrainRow | Fault]]:
    """Training rows: `messages`, or `prompt`/`completion`, or `question`/`answers`, or `text`; one at a time.

    Args:
        file: JSONL, CSV or Parquet.

    Yields:
        The line, whether the row gives its id itself, and the row or why it can't be used.

    Raises:
        DataError: The file can't be read at all.
    """
    for line, row in scan_rows(file):
        if isinstance(row, Fault):
            yield line, False, row
            continue
        try:
            yield line, row.get("id") is not None, parse_training(row)
        except DataError as error:
            yield line, False, Fault(file.name, line, error.what, row)


def parse_qa(row: Row) -> QaRow:
    """One row as a question with answers.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    question, answers, source = _text(row, "question"), _answers(row), _optional_text(row, "source")
    rest = _rest(row, "id", "question", "answers", "answer", "source")
    return QaRow(_id(row, [question, answers]), question, answers, source, rest)


def parse_training(row: Row) -> TrainRow:
    """One row to train on; of several forms in one row the first of messages, prompt, question, text counts.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    if row.get("messages") is not None:
        messages = _messages(row["messages"])
        return TrainRow(_id(row, messages), messages=messages, extra=_rest(row, "id", "messages"))
    if row.get("prompt") is not None:
        turns = [
            {"role": "user", "content": _text(row, "prompt")},
            {"role": "assistant", "content": _text(row, "completion")},
        ]
        rest = _rest(row, "id", "prompt", "completion")
        return TrainRow(_id(row, turns), messages=turns, completion=True, extra=rest)
    if row.get("question") is not None:
        qa = parse_qa(row)
        return TrainRow(qa.id, question=qa.question, answers=qa.answers, source=qa.source, extra=qa.extra)
    if row.get("text") is not None:
        text = _text(row, "text")
        return TrainRow(_id(row, text), text=text, extra=_rest(row, "id", "text"))
    raise DataError("no `messages`, no `prompt` and `completion`, no `question` and `answers`, no `text`")


def _read(path: Path, parse: Callable[[Row], R], quarantine: Path, limit: float) -> list[R]:
    rows: list[R] = []
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for line, row in scan_rows(path):
        if isinstance(row, Fault):
            faults.append(row)
            continue
        try:
            parsed = parse(row)
        except DataError as error:
            faults.append(Fault(str(path), line, error.what, row))
            continue
        if parsed.id in seen:
            twice = f"the id {parsed.id!r}" if row.get("id") is not None else "the same row"
            faults.append(Fault(str(path), line, f"{twice} stands in line {seen[parsed.id]} already", row))
            continue
        seen[parsed.id] = line
        rows.append(parsed)
    write_quarantine(quarantine, faults)
    if not rows and not faults:
        raise DataError("no rows in it", where=str(path), remedy="give a file with at least one row")
    check_quarantined(faults, len(rows) + len(faults), limit, what="rows", where=str(path), path=quarantine)
    return rows


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        raise DataError(f"no `{column}`")
    if not isinstance(value, str):
        raise DataError(f"`{column}` must be a string, not {type(value).__name__}")
    if not value.strip():
        raise DataError(f"`{column}` is empty")
    return value


def _optional_text(row: Row, column: str) -> str | None:
    return _text(row, column) if row.get(column) not in (None, "") else None


def _answers(row: Row) -> tuple[str, ...]:
    column = "answers" if row.get("answers") is not None or "answer" not in row else "answer"
    value = row.get(column)
    if value is None:
        raise DataError("no `answers`")
    answers = tuple(_answer(item, column) for item in (value if isinstance(value, list) else [value]))
    if not answers:
        raise DataError(f"`{column}` is an empty list")
    return answers


def _answer(value: Any, column: str) -> str:
    # bool is an int in Python, but nobody means the word "True" by JSON's true: ask for the string.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"`{column}` must be a string or a list of strings, not {type(value).__name__}")
    text = str(value)
    if not text.strip():
        raise DataError(f"`{column}` holds an empty answer")
    return text


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise DataError("`messages` must be a list of turns")
    turns: list[dict[str, str]] = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise DataError(f"turn {number} of `messages` needs a role ({', '.join(ROLES)}) and a `content` string")
        turns.append({"role": turn["role"], "content": turn["content"]})
    if all(turn["role"] != "assistant" for turn in turns):
        raise DataError("`messages` has no assistant turn: there is no answer to learn")
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise DataError("`messages` must end with the assistant's answer: it is what is learnt")
    return turns


def _id(row: Row, content: Any) -> str:
    given = row.get("id")
    if given is not None and str(given).strip():
        return str(given)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def _rest(row: Row, *taken: str) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in taken}
