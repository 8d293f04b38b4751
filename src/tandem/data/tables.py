"""Rows of JSON Lines, CSV and Parquet files, one at a time, with their line numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tandem.data.quarantine import Fault
from tandem.errors import DataError

TABLES = (".jsonl", ".ndjson", ".csv", ".parquet")
_BATCH_ROWS = 1024
Row = dict[str, Any]


def scan_rows(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    """Every row of a file, broken ones as faults.

    Args:
        path: A .jsonl, .ndjson, .csv or .parquet file.

    Yields:
        The line (the row for Parquet), from 1, and the row by column; or a fault where a line can't be read.

    Raises:
        DataError: No such file, another type, or a file that can't be read at all.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise DataError(
            f"rows can't be read from {suffix or 'a file without suffix'}",
            where=str(path),
            remedy=f"give one of {' '.join(TABLES)}",
        )
    if not path.is_file():
        raise DataError("no such file", where=str(path), remedy="check the path; it is relative to the current folder")
    if suffix == ".csv":
        yield from _scan_csv(path)
    elif suffix == ".parquet":
        yield from _scan_parquet(path)
    else:
        yield from _scan_json(path)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """As `scan_rows`, but a broken line is an error.

    Raises:
        DataError: As for `scan_rows`, and at the first line that can't be read.
    """
    for line, row in scan_rows(path):
        if isinstance(row, Fault):
            raise DataError(row.reason, where=row.where, remedy="mend or remove this line")
        yield line, row


def _scan_json(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            try:
                line = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield number, Fault(str(path), number, f"not UTF-8 (byte {error.start} of the line)")
                continue
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                yield number, Fault(str(path), number, f"not JSON: {reason}", line.strip())
                continue
            if "\\ud" in line.lower() and _has_surrogates(row):
                # Half of a character that an escape cut in two: it can't be tokenized, nor written as UTF-8.
                yield (
                    number,
                    Fault(str(path), number, r"not a character: a lone surrogate (\ud800 to \udfff)", line.strip()),
                )
            elif isinstance(row, dict):
                yield number, row
            else:
                yield number, Fault(str(path), number, f"a JSON object is needed, not {_json_name(row)}", row)


def _scan_csv(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                extra, short = None in row, None in row.values()
                if extra or short:
                    yield (
                        reader.line_num,
                        Fault(str(path), reader.line_num, f"too {'many' if extra else 'few'} columns", row),
                    )
                else:
                    yield reader.line_num, {column: _cell(value) for column, value in row.items()}
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start})", where=str(path), remedy="save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=str(path), remedy="check its quotes") from None


def _scan_parquet(path: Path) -> Iterator[tuple[int, Row | Fault]]:
    import pyarrow.parquet
    from pyarrow.lib import ArrowException

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError) as error:
        raise DataError(f"not a Parquet file that can be read: {error}", where=str(path)) from None


def _cell(value: str) -> Any:
    # A cell can't hold a list, but the JSON of one: that is how `answers` and `messages` stand in a CSV file.
    if value.startswith(("[", "{")):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
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
