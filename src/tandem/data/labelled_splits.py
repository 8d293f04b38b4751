"""From labelled rows to a training and an evaluation side that share no text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tandem.data.duplicates import near_duplicates, text_key
from tandem.data.labelled import LabelledRow
from tandem.data.quarantine import Fault
from tandem.errors import DataError


@dataclass(frozen=True)
class LabelledSplit:
    """Rows to learn from and rows to measure on, and what was left out on the way.

    Args:
        train: Rows to learn from.
        eval: Rows to measure on; may be empty.
        duplicates: Rows left out because another one has the same words and the same label.
        contradictions: Rows whose words stand under several labels: nobody can tell which is right.
        near_duplicates: Rows that stand beside one they resemble, on the same side.
        leaked: Training rows left out because the evaluation file has the text, or nearly.
    """

    train: tuple[LabelledRow, ...]
    eval: tuple[LabelledRow, ...]
    duplicates: int
    contradictions: tuple[Fault, ...]
    near_duplicates: int
    leaked: int


def split_labelled(
    rows: Sequence[LabelledRow],
    held_out: Sequence[LabelledRow] | None,
    *,
    eval_fraction: float,
    where: str,
) -> LabelledSplit:
    """Leave out what stands twice, then divide: stratified by label, near-duplicates on one side.

    What falls where depends on the texts alone: neither on the order of rows nor on a seed. A class of two different
    texts or more has at least one on each side; a class of one is learnt from.

    Args:
        rows: To divide; to learn from, where there are rows held out.
        held_out: Rows of an evaluation file of its own, or None.
        eval_fraction: Share to evaluate on, 0 to 1, where there is no such file.
        where: The training rows' file, for faults and errors.

    Raises:
        DataError: Nothing is left to learn from.
    """
    unique, duplicates, contradictions = _unique(rows, where)
    if held_out is None:
        groups = near_duplicates([text_key(row.text) for row in unique])
        chosen = _stratified(unique, groups, eval_fraction)
        train = [row for row, group in zip(unique, groups, strict=True) if group not in chosen]
        held = [row for row, group in zip(unique, groups, strict=True) if group in chosen]
        leaked = 0
    else:
        held, more, doubtful = _unique(held_out, where)
        duplicates, contradictions = duplicates + more, contradictions + doubtful
        groups = near_duplicates([text_key(row.text) for row in (*unique, *held)])
        tested = set(groups[len(unique) :])
        train = [row for row, group in zip(unique, groups, strict=False) if group not in tested]
        leaked = len(unique) - len(train)
    if not train:
        raise DataError(
            "no row is left to learn from",
            where=where,
            remedy="lower data.eval_fraction" if held_out is None else "data.eval holds the same texts: give others",
        )
    return LabelledSplit(
        tuple(train), tuple(held), duplicates, tuple(contradictions), len(groups) - len(set(groups)), leaked
    )


def find_labels(split: LabelledSplit, *, where: str, eval_where: str) -> tuple[str, ...]:
    """The classes of the training rows, sorted.

    Args:
        split: The rows.
        where: The training rows' file, for the error.
        eval_where: The evaluation rows' file.

    Raises:
        DataError: There is one class only, or an evaluation row has a class that nothing is learnt of.
    """
    labels = tuple(sorted({row.label for row in split.train}))
    if len(labels) < 2:
        raise DataError(
            f"all {len(split.train)} rows to learn from have the label {labels[0]!r}",
            where=where,
            remedy="give rows of two labels at least",
        )
    unseen = Counter(row.label for row in split.eval if row.label not in labels)
    if unseen:
        named = ", ".join(f"{label!r} ({count} rows)" for label, count in sorted(unseen.items()))
        raise DataError(
            f"labels to evaluate on that no training row has: {named}",
            where=eval_where,
            remedy="add training rows with these labels, or take the rows out",
        )
    return labels


def labelled_sha256(rows: Sequence[LabelledRow]) -> str:
    """SHA-256 (hex) of the rows' whole content, whatever their order."""
    lines = sorted(json.dumps(asdict(row), sort_keys=True, ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _unique(rows: Sequence[LabelledRow], where: str) -> tuple[list[LabelledRow], int, list[Fault]]:
    keys = [text_key(row.text) for row in rows]
    labels: dict[str, set[str]] = {}
    for row, key in zip(rows, keys, strict=True):
        labels.setdefault(key, set()).add(row.label)
    kept: dict[str, LabelledRow] = {}
    faults: list[Fault] = []
    for row, key in zip(rows, keys, strict=True):
        if len(labels[key]) > 1:
            reason = f"the same text has the labels {', '.join(sorted(labels[key]))}"
            faults.append(Fault(where, None, reason, asdict(row)))
        else:
            kept.setdefault(key, row)
    return list(kept.values()), len(rows) - len(kept) - len(faults), faults


def _stratified(rows: Sequence[LabelledRow], groups: Sequence[int], fraction: float) -> set[int]:
    """The groups to evaluate on. Each is placed, and counts for the label, of its member that comes first by hash."""
    sizes = Counter(groups)
    ranks: dict[int, tuple[str, str]] = {}
    for row, group in zip(rows, groups, strict=True):
        ranks[group] = min((_rank(row), row.label), ranks.get(group, ("~", "")))  # "~" comes after any hex digit
    by_label: dict[str, list[int]] = {}
    for group, (_, label) in ranks.items():
        by_label.setdefault(label, []).append(group)
    chosen: set[int] = set()
    for members in by_label.values():
        total = sum(sizes[group] for group in members)
        wanted = round(total * fraction)
        if fraction > 0 and len(members) > 1:
            wanted = max(1, wanted)
        last = len(members) if fraction == 1 else len(members) - 1  # one group at least is learnt from
        taken = 0
        for group in sorted(members, key=lambda group: ranks[group])[:last]:
            if taken >= wanted:
                break
            chosen.add(group)
            taken += sizes[group]
    return chosen


def _rank(row: LabelledRow) -> str:
    return hashlib.sha256(f"split\0{text_key(row.text)}".encode()).hexdigest()
