"""By what the figures are split: columns of the user's, and what can be told of every question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tandem.data.rows import QaRow
from tandem.data.splits import question_key
from tandem.errors import DataError

MANY_VALUES = 50
NO_VALUE = "(none)"
QUESTION_TYPE, GOLD_RETRIEVED, ANSWER_SEEN = "question type", "gold document retrieved", "answer seen in training"
ANSWER_RETRIEVED = "answer in a retrieved passage"

_VERBS = "is|are|was|were|do|does|did|can|could|will|would|should|may|has|have|had"
# What stands first in a question decides; at the same place the first of these.
_TYPES = (
    ("how many", re.compile(r"\bhow (?:many|much|long|often|far|old)\b")),
    ("why", re.compile(r"\bwhy\b|\bhow come\b")),
    ("how", re.compile(r"\bhow\b")),
    ("who", re.compile(r"\bwho(?:m|se)?\b")),
    ("when", re.compile(r"\bwhen\b|\b(?:what|which) (?:year|date|day|time|month)\b")),
    ("where", re.compile(r"\bwhere\b")),
    ("which or what", re.compile(r"\b(?:which|what)\b")),
    ("yes or no", re.compile(rf"^(?:{_VERBS})\b")),
)
# "When a view fails, what is raised?" doesn't ask for a time.
_CLAUSE = re.compile(rf"^(?:when|where|if|after|before) [^,?]+, (?=(?:what|which|who|when|where|why|how|{_VERBS})\b)")

Slices = Mapping[str, Mapping[str, str]]


def slice_value(extra: Mapping[str, Any], column: str) -> str:
    """The value by which a row is counted in a slice of one of its columns."""
    value = extra.get(column)
    return NO_VALUE if value is None or value == "" else str(value)


def question_type(question: str) -> str:
    """What an English question asks for, by its words; `other` where none of them tells."""
    asked = _CLAUSE.sub("", question.lower().strip())
    found = [(match.start(), place) for place, (_, words) in enumerate(_TYPES) if (match := words.search(asked))]
    return _TYPES[min(found)[1]][0] if found else "other"


def check_slices(columns: Sequence[str], extras: Sequence[Mapping[str, Any]], *, where: str) -> None:
    """Refuse a slice that no row has, or that has nearly as many values as there are rows.

    Raises:
        DataError: Naming the column.
    """
    for column in columns:
        values = {slice_value(extra, column) for extra in extras if column in extra}
        if not values:
            known = sorted({key for extra in extras for key in extra})
            raise DataError(
                f"slices: no question has a column {column!r}",
                where=where,
                remedy=f"there are: {', '.join(known)}" if known else "the file has no further columns",
            )
        if len(values) > MANY_VALUES:
            raise DataError(
                f"slices: column {column!r} has {len(values)} values, too many to be compared",
                where=where,
                remedy=f"name columns of at most {MANY_VALUES} values",
            )


def question_slices(
    columns: Sequence[str],
    rows: Sequence[QaRow],
    recall: Mapping[str, float | None],
    learnt_answers: frozenset[str] | None,
    answerable: Mapping[str, float] | None = None,
) -> Slices:
    """By column and question id, the value by which a question is counted.

    Args:
        columns: Of the user's.
        rows: The questions.
        recall: By question id, whether its gold document was retrieved: 0, 1, or None where that isn't known.
        learnt_answers: `question_key` of the answers that an adapter learnt; None where nothing says which.
        answerable: By question id, 1 where a right answer stands in a retrieved passage, else 0; None without any.

    Returns:
        The user's columns first; then what can be told of these questions, where it tells some of them apart.
    """
    slices: dict[str, Mapping[str, str]] = {
        column: {row.id: slice_value(row.extra, column) for row in rows} for column in columns
    }
    told: dict[str, Mapping[str, str]] = {QUESTION_TYPE: {row.id: question_type(row.question) for row in rows}}
    if all(recall.get(row.id) is not None for row in rows):
        told[GOLD_RETRIEVED] = {row.id: "yes" if recall[row.id] else "no" for row in rows}
    if answerable is not None:
        told[ANSWER_RETRIEVED] = {row.id: "yes" if answerable[row.id] else "no" for row in rows}
    if learnt_answers is not None:
        told[ANSWER_SEEN] = {
            row.id: "yes" if any(question_key(answer) in learnt_answers for answer in row.answers) else "no"
            for row in rows
        }
    for column, values in told.items():
        if column not in slices and len(set(values.values())) > 1:
            slices[column] = values
    return slices
