"""What is held out must not be read in training: neither its questions, nor the passages that answer them.

A document that is the gold one of held-out rows, and of no training row, stands in no training prompt. Where rows of
both sides share a document, which sets with several questions per document can't avoid, it is the passages: those that
the collection returns for a held-out question and that hold its answer stand in no other row's prompt. A passage that
is a training row's own gold is that row's, whoever else asks for it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from tandem.data.rows import TrainRow
from tandem.data.sources import DataFile
from tandem.data.splits import content_key, held_out, rank
from tandem.models.prompts import PassageLike
from tandem.training.data.augment import is_gold
from tandem.training.data.encoding import BATCH_ROWS, read
from tandem.training.data.staging import Staged

Search = Callable[[Sequence[str]], Sequence[Sequence[PassageLike]]]


@dataclass(frozen=True)
class HeldOut:
    """What a set keeps back for evaluation.

    Args:
        rows: `content_key` of the rows.
        documents: Gold documents of them alone.
        passages: `passage_key` of passages that answer them.
        sharing: How many of the rows have a gold document that is a training row's too.
    """

    rows: frozenset[str] = frozenset()
    documents: frozenset[str] = frozenset()
    passages: frozenset[bytes] = frozenset()
    sharing: int = 0

    def bars(self, row: TrainRow, passage: PassageLike) -> bool:
        """Whether a passage may not stand in a row's prompt, unless it is its gold one; held-out rows get any."""
        barred = passage.source in self.documents or passage_key(passage) in self.passages
        return barred and content_key(row) not in self.rows


def passage_key(passage: PassageLike) -> bytes:
    """16 bytes of the hash of a passage's document and text."""
    return hashlib.blake2b(f"{passage.source}\0{passage.text}".encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Division:
    """Which rows are on which side.

    Args:
        train: (rows,) bool, of the training files: learnt from.
        held: (rows,) bool, of the files that evaluation rows come from: evaluated on.
        leaked: Rows on neither side: of the training files, and they ask or say what a held-out one does.
    """

    train: np.ndarray[Any, Any]
    held: np.ndarray[Any, Any]
    leaked: int


def divide(rows: Staged, other: Staged | None, *, eval_fraction: float) -> Division:
    """Choose the rows to evaluate on, and leave out of training what they hold too.

    Args:
        rows: Of the training files.
        other: Of files to evaluate on, all of them; None: a share of `rows`.
        eval_fraction: That share.
    """
    if other is None:
        chosen = held_out(rows.ranks, eval_fraction)
        held = np.fromiter((rank in chosen for rank in rows.ranks), dtype=np.bool_, count=len(rows.ids))
        known = {rows.keys[place] for place in np.flatnonzero(held)}
        train = ~held
    else:
        held = np.ones(len(other.ids), dtype=np.bool_)
        known = set(other.keys)
        train = np.ones(len(rows.ids), dtype=np.bool_)
    leaked = train & np.fromiter((key in known for key in rows.keys), dtype=np.bool_, count=len(rows.ids))
    return Division(train & ~leaked, held, int(leaked.sum()))


def survey(
    train: Sequence[DataFile],
    other: Sequence[DataFile] | None,
    *,
    eval_fraction: float,
    search: Search,
    told: Callable[[int], None] = lambda _: None,
) -> HeldOut:
    """Read the rows once before they are prepared, to know what must not be retrieved for them.

    Args:
        train: The files to train on.
        other: Files to evaluate on; None: a share of `train`.
        eval_fraction: That share.
        search: For each question what retrieval returns for its prompt, best first.
        told: Called with how many questions have been searched for.

    Raises:
        DataError: A file can't be read.
    """
    chosen = held_out((rank(row) for row in _rows(train)), eval_fraction) if other is None else None
    keys: set[str] = set()
    documents: Counter[str] = Counter()
    passages: set[bytes] = set()
    searched = 0
    evaluated = (row for row in _rows(train if other is None else other) if chosen is None or rank(row) in chosen)
    while rows := list(islice(evaluated, BATCH_ROWS)):
        keys.update(map(content_key, rows))
        asking = [row for row in rows if row.question]
        documents.update(row.source for row in asking if row.source is not None)
        found = search([row.question or "" for row in asking]) if asking else []
        for row, hits in zip(asking, found, strict=True):
            passages.update(passage_key(passage) for passage in hits if is_gold(row, passage))
        searched += len(asking)
        told(searched)
    taught = {row.source for row in _rows(train) if row.source is not None and content_key(row) not in keys}
    return HeldOut(
        rows=frozenset(keys),
        documents=frozenset(documents.keys() - taught),
        passages=frozenset(passages),
        sharing=sum(count for source, count in documents.items() if source in taught),
    )


def _rows(files: Iterable[DataFile]) -> Iterator[TrainRow]:
    """The rows that are staged: of several with one id the first."""
    seen: set[str] = set()
    for file in files:
        for batch in read(file):
            for item in batch:
                if isinstance(item.row, TrainRow) and item.row.id not in seen:
                    seen.add(item.row.id)
                    yield item.row
