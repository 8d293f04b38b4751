"""Encoded rows on their way to disk: tokens are written as they come, a few words of each row stay in memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tandem.data.quarantine import Fault, check_share, write_quarantine
from tandem.data.train_rows import TRAIN_ROWS, TrainRowsFile
from tandem.errors import DataError
from tandem.training.data.dataset import IDS, Examples
from tandem.training.data.encoding import Encoded

_COPY_SEQUENCES = 4096  # copied at once from the staging files


@dataclass
class Tally:
    """How many rows couldn't be used, and the first of them."""

    count: int = 0
    first: Fault | None = None

    def add(self, fault: Fault) -> None:
        """Count one."""
        self.count += 1
        self.first = self.first or fault


@dataclass
class Staged:
    """The rows of one set of files: some 600 bytes of memory for each, whatever its length.

    Args:
        folder: Where their tokens lie until it is known which of them are held out.
        quarantine: Where what can't be used is set aside.
        unread: Rows that couldn't be read, or stood there already.
        unusable: Rows that could be read and can't be trained on.
        ids: Of each row, in order; so too `ranks`, `digests`, `keys` and `golds`.
        excluded: Passages that were barred from prompts.
        owners: Of each sequence, the place of its row.
        lengths: Of each sequence, its tokens.
    """

    folder: Path
    quarantine: Path
    unread: Tally = field(default_factory=Tally)
    unusable: Tally = field(default_factory=Tally)
    ids: list[str] = field(default_factory=list)
    ranks: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    golds: list[str | None] = field(default_factory=list)
    excluded: int = 0
    owners: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))

    @property
    def tokens_path(self) -> Path:
        """int32, all sequences one after another."""
        return self.folder / "input_ids.bin"

    @property
    def masks_path(self) -> Path:
        """bool, as `tokens_path`."""
        return self.folder / "loss_mask.bin"

    @property
    def rows_path(self) -> Path:
        """What is kept of each row for comparisons: see `tandem.data.train_rows`."""
        return self.folder / TRAIN_ROWS

    def fill(self, batches: Iterable[Sequence[Encoded]]) -> Iterable[int]:
        """Take over all batches.

        Yields:
            The rows so far, after each batch.
        """
        seen: dict[str, tuple[str, int]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            self.tokens_path.open("wb") as tokens,
            self.masks_path.open("wb") as masks,
            TrainRowsFile(self.rows_path) as rows,
        ):
            for batch in batches:
                faults: list[Fault] = []
                for row in batch:
                    fault = row.unread or _repeated(row, seen)
                    if fault is not None:
                        self.unread.add(fault)
                        faults.append(fault)
                        continue
                    seen[row.id] = (row.file, row.line)
                    if row.unusable is not None:
                        self.unusable.add(row.unusable)
                        faults.append(row.unusable)
                    for ids, mask in zip(row.input_ids, row.loss_masks, strict=True):
                        self.owners.append(len(self.ids))
                        self.lengths.append(len(ids))
                        ids.tofile(tokens)
                        mask.tofile(masks)
                    self.ids.append(row.id)
                    self.ranks.append(row.rank)
                    self.digests.append(row.sha256)
                    self.keys.append(row.key)
                    rows.add(row.seen)
                    self.golds.append(row.gold)
                    self.excluded += row.excluded
                write_quarantine(self.quarantine, faults)
                yield len(self.ids) + self.unread.count

    def trainable(self, rows: np.ndarray[Any, Any]) -> bool:
        """Whether any of these rows ((rows,) bool) can be trained on."""
        return bool(rows[np.asarray(self.owners, dtype=np.int64)].any())

    def check(self, limit: float, *, where: str) -> None:
        """See that there are rows, and not too many that can't be read.

        Raises:
            DataError: There are none, or too many.
        """
        total = len(self.ids) + self.unread.count
        if not total:
            raise DataError("no rows in it", where=where, remedy="give a file with at least one row")
        check_share(self.unread.count, self.unread.first, total, limit, what="rows", where=where, path=self.quarantine)

    def write(self, rows: np.ndarray[Any, Any], folder: Path) -> Examples:
        """Write the sequences of some rows as examples, without ever holding them.

        Args:
            rows: (rows,) bool, which of them; at least one of them has a sequence.
            folder: Where to; see `Examples.load`.

        Returns:
            What was written, mapped.
        """
        folder.mkdir(parents=True, exist_ok=True)
        owners, lengths = np.asarray(self.owners, dtype=np.int64), np.asarray(self.lengths, dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        chosen = np.flatnonzero(rows[owners])
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen])]).astype(np.int64)
        np.save(folder / "offsets.npy", offsets)
        sources = (("input_ids", np.int32, self.tokens_path), ("loss_mask", np.bool_, self.masks_path))
        for name, dtype, path in sources:
            shape = (int(offsets[-1]),)
            target = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape
            )
            source = np.memmap(path, dtype=dtype, mode="r")
            for at in range(0, len(chosen), _COPY_SEQUENCES):
                part = chosen[at : at + _COPY_SEQUENCES]
                pieces = [source[starts[i] : starts[i] + lengths[i]] for i in part]
                target[offsets[at] : offsets[at + len(part)]] = np.concatenate(pieces)
            target.flush()
        with (folder / IDS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(self.ids[owners[i]]) + "\n" for i in chosen)
        return Examples.load(folder)

    def clear(self) -> None:
        """Delete the staging files."""
        for path in (self.tokens_path, self.masks_path, self.rows_path):
            path.unlink(missing_ok=True)
        self.folder.rmdir()


def _repeated(row: Encoded, seen: dict[str, tuple[str, int]]) -> Fault | None:
    if row.id not in seen:
        return None
    file, line = seen[row.id]
    place = f"line {line}" if file == row.file else f"{file}:{line}"
    twice = f"the id {row.id!r}" if row.given_id else "the same row"
    return Fault(row.file, row.line, f"{twice} stands in {place} already", {"id": row.id})
