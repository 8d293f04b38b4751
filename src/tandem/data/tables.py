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
Row = dict[str, Any]


def scan_rows(file: Path | DataFile) -> Iterator[tuple[int, Row | Fault]]:
    """Every row of a file, broken ones as faults.

    Args:
        file: A .jsonl, .ndjson, .csv or .parquet file; it is read as it is asked for, never as a whole.

    Yields:
        The line (the row for Parquet), from 1, and the row by column; or a fault where a line can't be read.

    Raises:
        DataError: No such file, another type, or one that isn't of its type.
        InputError: The file may not be read.
        UnreachableError: The file can't be read now.
    """
    suffix = file.suffix.lower()
    if suffix not in TABLES:
        raise DataError(
            f"rows can't be read from {suffix or 'a file without suffix'}",
            where=str(file) if isinstance(file, Path) else file.name,
            remedy=f"give one of {' '.join(TABLES)}",
        )
    data = DataFile.local(file) if isinstance(file, Path) else file
    if suffix == ".csv":
        yield from _scan_csv(data)
    elif suffix == ".parquet":
        yield from _scan_parquet(data)
    else:
        yield from _scan_json(data)


def _scan_json(data: DataFile) -> Iterator[tuple[int, Row | Fault]]:
    with data.open() as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, Fault(data.name, number, f"not UTF-8 (byte {error.start} of the line)")
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            # A ValueError that isn't JSON's is Python's, of a number with thousands of digits.
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
                yield number, Fault(data.name, number, f"not JSON: {reason}", line.strip())
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
    try:
        with data.open() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                extra, short = None in row, None in row.values()
                if extra or short:
                    yield (
                        reader.line_num,
                        Fault(data.name, reader.line_num, f"too {'many' if extra else 'few'} columns", row),
                    )
                else:
                    yield reader.line_num, {column: _cell(value) for column, value in row.items()}
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start})", where=data.name, remedy="save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=data.name, remedy="check its quotes") from None


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
        raise DataError(f"not a Parquet file that can be read: {error}", where=data.name) from None


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
