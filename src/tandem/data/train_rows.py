"""What is kept of the rows a model was trained on: enough to find out later what it has seen, and none of their text.

One line per row of a Parquet file: its id; 64 bits of its `content_key`; the same of each of its answers; and the
fingerprints (see `tandem.data.likeness`) of what it asks. Where a chat or a prompt has questions among its
instructions, each of them has one too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from tandem.data.duplicates import text_key
from tandem.data.likeness import (
    CONTENT_WORDS,
    HASHES,
    Fingerprint,
    Fingerprints,
    content_words,
    fingerprint,
    questions_in,
)
from tandem.data.rows import TrainRow
from tandem.data.splits import content_key, question_key

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN_ROWS = "train_rows.parquet"
SELECTION_ROWS = "selection_rows.parquet"  # the same of the held-out rows by which the checkpoint was chosen
_GROUP = 4096  # rows written at once
_READ = 50_000  # rows read at once


@dataclass(frozen=True)
class Seen:
    """What is kept of a row.

    Args:
        id: The row's.
        key: 64 bits of its `content_key`.
        answers: 64 bits of the `question_key` of each answer; None where a row doesn't say which they are.
        asked: Fingerprints of what it asks.
    """

    id: str = ""
    key: int = 0
    answers: tuple[int, ...] | None = None
    asked: tuple[Fingerprint, ...] = ()


def key_bits(key: str) -> int:
    """A `question_key` or `content_key`, 16 hex digits, as a number of 64 bits."""
    return int(key, 16)


def among(keys: Iterable[str], known: np.ndarray[Any, Any]) -> frozenset[str]:
    """Those of the keys that a file's numbers, (any,) uint64, have."""
    listed = list(keys)
    wanted = np.array([key_bits(key) for key in listed], dtype=np.uint64)
    return frozenset(listed[place] for place in np.flatnonzero(np.isin(wanted, known)))


def seen(row: TrainRow) -> Seen:
    """What is to be kept of a row."""
    return Seen(row.id, key_bits(content_key(row)), _answers(row), tuple(map(fingerprint, _asked(row))))


def _answers(row: TrainRow) -> tuple[int, ...] | None:
    if row.question is not None:
        said = list(row.answers)
    elif row.messages is not None:
        said = [turn["content"] for turn in row.messages if turn["role"] == "assistant"]
    else:
        return None
    return tuple(key_bits(question_key(answer)) for answer in said)


def _asked(row: TrainRow) -> list[str]:
    if row.question is not None:
        return [row.question]
    if row.messages is not None:
        turns = [turn["content"] for turn in row.messages if turn["role"] == "user"]
        return [*turns, *_inside(turns)]
    return [row.text or "", *_inside([row.text or ""])]


def _inside(texts: Sequence[str]) -> list[str]:
    # "How so?" is in many a text, and says nothing of what else is asked there.
    found = [question for text in texts for question in questions_in(text) if question != text]
    return [question for question in found if len(content_words(text_key(question))) >= CONTENT_WORDS]


class TrainRowsFile:
    """Writes rows as they come; a context manager.

    Args:
        path: The file, which is replaced.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(path, _schema())
        self._rows: list[Seen] = []

    def __enter__(self) -> TrainRowsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: Seen) -> None:
        """Append one."""
        self._rows.append(row)
        if len(self._rows) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = {
            "id": [row.id for row in self._rows],
            "key": [row.key for row in self._rows],
            "answers": [row.answers for row in self._rows],
            "asked": [[{"words": one.words, "signature": one.signature} for one in row.asked] for row in self._rows],
        }
        self._writer.write_table(pa.table(columns, schema=_schema()))
        self._rows = []


def _schema() -> pa.Schema:
    import pyarrow as pa

    asked = pa.struct([("words", pa.uint64()), ("signature", pa.binary(HASHES))])
    fields = [("id", pa.string()), ("key", pa.uint64()), ("answers", pa.list_(pa.uint64())), ("asked", pa.list_(asked))]
    return pa.schema(fields)


def copy_rows(source: Path, target: Path, chosen: np.ndarray[Any, Any]) -> None:
    """Write some rows of one file to another.

    Args:
        source: A file by `TrainRowsFile`.
        target: Is replaced.
        chosen: (rows,) bool, which of them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, _schema()) as writer:
        for batch in file.iter_batches(_READ):
            writer.write_batch(batch.filter(pa.array(chosen[done : done + len(batch)])))
            done += len(batch)


def read_keys(path: Path) -> np.ndarray[Any, Any]:
    """(rows,) uint64 of every row's key."""
    import pyarrow.parquet as pq

    keys: np.ndarray[Any, Any] = pq.read_table(path, columns=["key"])["key"].to_numpy()
    return keys


def read_answers(path: Path) -> np.ndarray[Any, Any] | None:
    """(answers,) uint64 of all rows together; None where a row doesn't say which its answers are."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    answers = pq.read_table(path, columns=["answers"])["answers"]
    if answers.null_count:
        return None
    flat: np.ndarray[Any, Any] = pc.list_flatten(answers).to_numpy()
    return flat


def scan_asked(path: Path) -> Iterator[tuple[Fingerprints, pa.Array]]:
    """What the rows ask, a part at a time.

    Yields:
        Fingerprints, and (fingerprints,) string, the id of the row of each.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_READ, columns=["id", "asked"]):
            rows = pc.list_parent_indices(batch["asked"])
            each = pc.list_flatten(batch["asked"])
            words, signatures = (pc.struct_field(each, name) for name in ("words", "signature"))
            yield Fingerprints.join(words.to_numpy(), signatures.to_pylist()), batch["id"].take(rows)
