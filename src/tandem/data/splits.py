"""Splits by hash: the same rows in any order, on any machine, fall the same way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TypeVar

from tandem.data.rows import QaRow, TrainRow

R = TypeVar("R", QaRow, TrainRow)


def question_key(question: str) -> str:
    """The first 16 hex digits of the SHA-256 of a question, lower-cased, with single spaces."""
    return hashlib.sha256(_normalised(question).encode()).hexdigest()[:16]


def _normalised(question: str) -> str:
    return " ".join(question.lower().split())


def _group(row: QaRow | TrainRow) -> str:
    # Rows that ask the same thing must fall on the same side, whatever their ids: else the answer leaks.
    if row.question is not None:
        return _normalised(row.question)
    if isinstance(row, TrainRow) and row.messages:
        return " ".join(turn["content"] for turn in row.messages if turn["role"] == "user")
    return row.id


def content_key(row: TrainRow) -> str:
    """The `question_key` of what a row asks, whatever its form, or of its text: what must not be on both sides."""
    if row.question is not None:
        return question_key(row.question)
    if row.messages is not None:
        asked = [turn["content"] for turn in row.messages if turn["role"] == "user"]
        return question_key(" ".join(asked or [turn["content"] for turn in row.messages]))
    return question_key(row.text or "")


def rank(row: QaRow | TrainRow, salt: str = "split") -> str:
    """The SHA-256 (hex) by which a row is split: of what it asks, so that rows that ask the same have the same."""
    return hashlib.sha256(f"{salt}\0{_group(row)}".encode()).hexdigest()


def held_out(ranks: Iterable[str], eval_fraction: float) -> set[str]:
    """Which ranks are to be evaluated on.

    Args:
        ranks: Of the rows, in any order.
        eval_fraction: Share of the different ranks, 0 to 1. Where it is above 0 and there are two different ranks or
            more, both sides get at least one.
    """
    groups = sorted(set(ranks))
    count = round(len(groups) * eval_fraction)
    if eval_fraction > 0 and len(groups) > 1:
        count = min(max(count, 1), len(groups) - 1) if eval_fraction < 1 else len(groups)
    return set(groups[:count])


def split(rows: Sequence[R], eval_fraction: float, *, salt: str = "split") -> tuple[list[R], list[R]]:
    """Training and evaluation rows, by the hash of what each row asks.

    Args:
        rows: In any order; the result keeps it.
        eval_fraction: See `held_out`.
        salt: Another salt gives another split.

    Returns:
        (train, eval); rows with the same question are on the same side.
    """
    chosen = held_out((rank(row, salt) for row in rows), eval_fraction)
    train = [row for row in rows if rank(row, salt) not in chosen]
    return train, [row for row in rows if rank(row, salt) in chosen]


def take(rows: Sequence[R], limit: int | None, *, salt: str = "take") -> list[R]:
    """At most `limit` rows, chosen by hash; they keep their order.

    Args:
        rows: In any order.
        limit: How many; None for all.
        salt: Another salt gives another choice.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    ranks = sorted((rank(row, salt), row.id) for row in rows)[:limit]
    chosen = {id for _, id in ranks}
    return [row for row in rows if row.id in chosen]


def row_sha256(row: QaRow | TrainRow) -> str:
    """SHA-256 (hex) of a row's whole content."""
    text = json.dumps(asdict(row), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def split_sha256(rows: Iterable[QaRow] | Iterable[TrainRow]) -> str:
    """SHA-256 (hex) of rows, whatever their order."""
    return digests_sha256(row_sha256(row) for row in rows)


def digests_sha256(digests: Iterable[str]) -> str:
    """The `split_sha256` of rows of which only the `row_sha256` is at hand."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
