"""What can't be used is set aside with its file, line and reason; too much of it fails the job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import DataError

_EXCERPT = 2000  # characters of a broken row that are kept, so that one huge line can't fill the disk


@dataclass(frozen=True)
class Fault:
    """One thing that couldn't be used.

    Args:
        file: The file it stands in.
        line: Line (JSONL, CSV) or row (Parquet), from 1; None when the whole file is meant.
        reason: Why, in plain English.
        row: The row itself, as far as it could be read.
        open_ended: Its table breaks off here: nobody knows how much more would have followed.
    """

    file: str
    line: int | None
    reason: str
    row: Any = None
    open_ended: bool = False

    @property
    def where(self) -> str:
        """``file:line``, or the file alone."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


def write_quarantine(path: Path, faults: Sequence[Fault]) -> None:
    """Append faults to a JSON Lines file; without faults the file isn't touched.

    Args:
        path: The quarantine file; its folder is created.
        faults: What to write, one line each: file, line, reason, row.
    """
    if not faults:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for fault in faults:
            record = {"file": fault.file, "line": fault.line, "reason": fault.reason, "row": fault.row}
            text = json.dumps(record, ensure_ascii=False, default=str)
            if len(text) > _EXCERPT:
                record["row"] = str(fault.row)[:_EXCERPT]
                text = json.dumps(record, ensure_ascii=False)
            file.write(text + "\n")


def count_quarantined(path: Path) -> int:
    """How many faults a quarantine file has; no file is none."""
    # By bytes: a row may hold characters at which text is split into lines too.
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def check_quarantined(faults: Sequence[Fault], total: int, limit: float, *, what: str, where: str, path: Path) -> None:
    """As `check_share`, for faults that are all at hand."""
    first = faults[0] if faults else None
    check_share(len(faults), first, total, limit, what=what, where=where, path=path)


def check_share(
    count: int, first: Fault | None, total: int, limit: float, *, what: str, where: str, path: Path
) -> None:
    """Refuse to go on when too large a share couldn't be used.

    Args:
        count: How many couldn't be used.
        first: The first of them.
        total: How many there were, the faulty ones among them.
        limit: The largest share, 0 to 1, that may be faulty.
        what: What they are, in the plural ("rows", "documents").
        where: The file or folder.
        path: The quarantine file, to be named in the error.

    Raises:
        DataError: The share is larger than `limit`, or nothing is left.
    """
    if first is None or (count < total and count <= limit * total):
        return
    raise DataError(
        f"{count} of {total} {what} can't be used, the first at {first.where}: {first.reason}",
        where=where,
        remedy=f"mend them (all are listed in {path}) or raise max_quarantined (now {limit:g})",
    )


def check_complete(broken_off: Sequence[Fault], limit: float, *, what: str, path: Path) -> None:
    """Refuse to go on after a table that breaks off: what is lost with its rest is more than any share below 1.

    Args:
        broken_off: The open-ended faults.
        limit: The largest share, 0 to 1, that may be faulty; 1 accepts whatever is lost.
        what: What the table holds, in the plural ("documents").
        path: The quarantine file, to be named in the error.

    Raises:
        DataError: There is one, and `limit` is below 1.
    """
    if not broken_off or limit >= 1:
        return
    first = broken_off[0]
    others = f" (tables that break off: {len(broken_off)}, listed in {path})" if len(broken_off) > 1 else ""
    raise DataError(
        f"the table breaks off here ({first.reason}), and nobody knows how many {what} it would have held{others}",
        where=first.where,
        remedy=f"mend the file; or `max_quarantined: 1` (now {limit:g}) accepts the loss of what follows",
    )
