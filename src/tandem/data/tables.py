"""Rows of JSON Lines, CSV and Parquet files, one at a time, with their line numbers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tandem.data.quarantine import Fault
from tandem.data.sources import READABLE, DataFile
from tandem.errors import DataError

TABLES = READABLE
_BATCH_ROWS = 1024
# Of a CSV file's cell: room for any book, and a bound to what is kept (128 MiB) of a file in which a quote is never
# closed.
_CELL_CHARACTERS = 32 * 2**20
Row = dict[str, Any]


class _BrokenOffError(Exception):
    """Nothing can be read from this line on; None where the whole file can't."""

    def __init__(self, line: int | None, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason
        self.remedy = remedy


def scan_rows(file: Path | DataFile) -> Iterator[tuple[int, Row | Fault]]:
    """Every row of a file, broken ones as faults.

    Args:
        file: A .jsonl, .ndjson, .csv or .parquet file; it is read as it is asked for, never as a whole.

    Yields:
        The line (the row for Parquet), from 1, and the row by column; or a fault where a line can't be read.

    Raises:
        DataError: No such file, another type, or a CSV or Parquet file that can't be read (from some row on).
        InputError: The file may not be read.
        UnreachableError: The file can't be read now.
    """
    data = _table(file)
    try:
        yield from _scan(data)
    except _BrokenOffError as broken:
        where = Fault(data.name, broken.line, broken.reason).where
        raise DataError(broken.reason, where=where, remedy=broken.remedy) from None


def scan_readable_rows(file: Path | DataFile) -> Iterator[tuple[int, Row | Fault]]:
    """As `scan_rows`, but where a file can't be read from some row on, an open-ended fault is the last of it.

    Raises:
        DataError: No such file, or another type.
        InputError: The file may not be read.
        UnreachableError: The file can't be read now.
    """
    data = _table(file)
    try:
        yield from _scan(data)
    except _BrokenOffError as broken:
        yield broken.line or 1, Fault(data.name, broken.line, broken.reason, open_ended=True)


def _table(file: Path | DataFile) -> DataFile:
    suffix = file.suffix.lower()
    if suffix not in TABLES:
        raise DataError(
            f"rows can't be read from {suffix or 'a file without suffix'}",
            where=str(file) if isinstance(file, Path) else file.name,
            remedy=f"give one of {' '.join(TABLES)}",
        )
    return DataFile.local(file) if isinstance(file, Path) else file


def _scan(data: DataFile) -> Iterator[tuple[int, Row | Fault]]:
    if data.suffix == ".csv":
        return _scan_csv(data)
    return _scan_parquet(data) if data.suffix == ".parquet" else _scan_json(data)


def _scan_json(data: DataFile) -> Iterator[tuple[int, Row | Fault]]:
    with data.open() as file:
        for number, raw in enumerate(file, start=1):
            cut = not raw.endswith(b"\n")  # a row that breaks there is where a write or a copy stopped
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 (byte {error.start} of the line)"
                yield number, Fault(data.name, number, reason, open_ended=cut)
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            # A ValueError that isn't JSON's is Python's, of a number with thousands of digits.
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
                cut &= isinstance(error, json.JSONDecodeError)
                yield number, Fault(data.name, number, f"not JSON: {reason}", line.strip(), open_ended=cut)
                continue
            if "\\ud" in line.lower() and _has_surrogates(row):
                # Half of a character that an escape cut in two: it can't be tokenized, nor written as UTF-8.
                yield (
                    number,
                    Fault(data.name, number, r"not a character: a lone surrogate (\ud800 to \udfff)", line.strip()),
                )
            elif isinstance(row, dict):
                yield number, row
            else:
                yield number, Fault(data.name, number, f"a JSON object is needed, not {_json_name(row)}", row)


def _scan_csv(data: DataFile) -> Iterator[tuple[int, Row | Fault]]:
    # The limit is the whole process's: every thread sets the same one, and what others raised further stays.
    csv.field_size_limit(max(csv.field_size_limit(), _CELL_CHARACTERS))
    begin = 1  # where the next row begins: a quote that is never closed shows at the file's end
    try:
        with (
            data.open() as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
        ):
            lines = _Lines(file)
            reader = csv.DictReader(lines, strict=True)
            if reader.fieldnames is None:
                return
            begin = reader.line_num + 1
            for row in reader:
                begin = reader.line_num + 1
                extra, short = None in row, None in row.values()
                if extra or short:
                    reason = f"too {'many' if extra else 'few'} columns"
                    yield (
                        reader.line_num,
                        Fault(data.name, reader.line_num, reason, row, open_ended=short and lines.cut),
                    )
                else:
                    yield reader.line_num, {column: _cell(value) for column, value in row.items()}
    except UnicodeError as error:
        raise _BrokenOffError(begin, f"not UTF-8 ({error})", "save it as UTF-8") from None
    except csv.Error as error:
        raise _BrokenOffError(begin, f"not CSV: {error}", "check its quotes") from None


class _Lines:
    """A file's lines up to the first that isn't UTF-8: a decoder that fails fails for all that it has read ahead.

    Args:
        file: Decoded with ``surrogateescape``.

    Attributes:
        cut: Whether the last line that was asked for has no end.
    """

    def __init__(self, file: io.TextIOWrapper) -> None:
        self.cut = False
        self._lines = enumerate(file, start=1)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.cut = not line.endswith(("\n", "\r"))
        try:
            line.encode()
        except UnicodeEncodeError as error:
            raise UnicodeError(f"byte {len(line[: error.start].encode())} of line {number}") from None
        return line


def _scan_parquet(data: DataFile) -> Iterator[tuple[int, Row | Fault]]:
    import pyarrow.parquet
    from pyarrow.lib import ArrowException

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(data.open_seekable()) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    # What isn't Arrow's own comes of values that Python hasn't: text that isn't UTF-8, times out of range or zone.
    except (ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        reason = f"not a Parquet file that can be read: {error}"
        raise _BrokenOffError(number + 1 if number else None, reason, "write it anew") from None


def _cell(value: str) -> Any:
    # A cell can't hold a list, but the JSON of one: that is how `answers` and `messages` stand in a CSV file.
    if value.startswith(("[", "{")):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return value if _has_surrogates(read) else read
    return value


def _has_surrogates(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _json_name(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "a list", str: "a string", bool: "true or false"}.get(type(value), "a number")
