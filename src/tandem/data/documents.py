"""From a file to the documents in it, as text with known headings."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.artifacts.filesystems import is_remote
from tandem.data.formats import FORMATS
from tandem.data.headings import Heading
from tandem.data.quarantine import Fault
from tandem.data.sources import DataFile, glob_matcher, walk
from tandem.data.tables import TABLES, scan_readable_rows
from tandem.errors import DataError
from tandem.specs.index import SourceSpec

DOCUMENT_NAMESPACE = uuid.UUID("6f2a1f0e-3b0c-5d55-9a76-2f1f7a3f5a11")
SUFFIXES = frozenset(FORMATS) | frozenset(TABLES)


@dataclass(frozen=True)
class Document:
    """One document.

    Args:
        id: uuid5 of the source: the same document has the same id in every run.
        source: Path relative to the source's folder, with ``/``; for a row of a table, ``path#id``.
        title: The first heading, the page's title, or the file's name.
        text: What was read, with ``\\n`` line ends; chunks are slices of it.
        metadata: A row's other columns, with None for numbers that aren't finite; empty for a file.
        headings: The sections, in order.
        modified_at: When its file was last changed: ISO 8601, UTC; None where that isn't known.
        line: The line of its file (the row for Parquet) that it is, from 1; None for a whole file.
    """

    id: str
    source: str
    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()
    modified_at: str | None = None
    line: int | None = None


@dataclass(frozen=True)
class Reading:
    """What came of a file: its documents, and what in it couldn't be used."""

    documents: tuple[Document, ...]
    faults: tuple[Fault, ...] = ()


def list_files(source: SourceSpec, root: str) -> list[tuple[str, DataFile]]:
    """The files of a source that can be read, each with its path relative to the source, sorted by it.

    Files of other types, and hidden ones, are passed over when a folder is given.

    Args:
        source: Its `include` and `exclude` globs choose files under a folder.
        root: Where the source's URI lies: a folder, or one file; here, or on any filesystem that pyarrow knows.

    Raises:
        DataError: Nothing is there, nothing in it can be read, or a glob leaves the folder.
    """
    kinds = f"readable are {' '.join(sorted(SUFFIXES))}"
    for glob in (*source.include, *source.exclude):
        if Path(glob).is_absolute() or ".." in Path(glob).parts:
            raise DataError(f"the glob {glob!r} leaves the folder", where=source.uri, remedy="name a pattern inside it")
    if not is_remote(root) and not Path(root).exists():
        raise DataError("no such file or folder", where=source.uri, remedy="check the path in `sources`")
    found = sorted(walk(root), key=lambda each: each[0])
    if [relative for relative, _ in found] == [""]:
        file = found[0][1]
        if file.suffix not in SUFFIXES:
            raise DataError(f"files of type {file.suffix or 'no suffix'} can't be read", where=source.uri, remedy=kinds)
        return [(Path(file.path).name, file)]
    included = [glob_matcher(glob) for glob in source.include]
    excluded = [glob_matcher(glob) for glob in source.exclude]
    files = [
        (relative, file)
        for relative, file in found
        if file.suffix in SUFFIXES
        and not any(part.startswith(".") for part in relative.split("/"))
        and any(matches(relative) for matches in included)
        and not any(matches(relative) for matches in excluded)
    ]
    if not files:
        globs = ", ".join(source.include)
        raise DataError(
            f"no document in this folder matches {globs}",
            where=root,
            # What is missing may be a mount that isn't there: an index must not be wiped by one.
            remedy=f"check the folder and globs; {kinds}. Nothing is deleted: if it is empty for good, take it out of "
            "`sources`",
        )
    return files


def read_file(file: DataFile, source: str) -> Reading:
    """`scan_file` at once, for a file of moderate size."""
    documents: list[Document] = []
    faults: list[Fault] = []
    for found in scan_file(file, source):
        if isinstance(found, Fault):
            faults.append(found)
        else:
            documents.append(found)
    return Reading(tuple(documents), tuple(faults))


def scan_file(file: DataFile, source: str) -> Iterator[Document | Fault]:
    """The documents of a file, one at a time, and a fault for whatever in it can't be used.

    Args:
        file: txt, md, rst, html, pdf; or jsonl, csv, parquet, where each row with a `text` column is a document. Of
            those one row is in memory (some, of Parquet), of the others the whole file.
        source: Its path relative to the source: `Document.source`.

    Yields:
        Documents with some text in them, and faults; the last one is open-ended if a table breaks off there.

    Raises:
        InputError: It may not be read.
        UnreachableError: It can't be read now: nobody knows what is in it.
    """
    if file.suffix in TABLES:
        yield from _scan_table(file, source)
        return
    if file.suffix not in FORMATS:
        yield Fault(file.name, None, f"files of type {file.suffix or 'no suffix'} can't be read")
        return
    with file.open() as stream:
        data = stream.read()
    try:
        text = FORMATS[file.suffix](data)
        if not text.body.strip():
            scan = "; a scan needs text recognition first" if file.suffix == ".pdf" else ""
            raise DataError(f"no text in it{scan}")
    except DataError as error:
        yield Fault(file.name, None, error.what)
        return
    yield Document(
        id=_id(source),
        source=source,
        title=text.title or Path(file.path).stem,
        text=text.body,
        headings=text.headings,
        modified_at=file.modified_at,
    )


def _scan_table(file: DataFile, source: str) -> Iterator[Document | Fault]:
    seen: dict[str, int] = {}
    found = False
    for line, row in scan_readable_rows(file):
        found = True
        if isinstance(row, Fault):
            yield row
            continue
        text = row.get("text")
        try:
            key = _key(row.get("id"), line)
            rest = {column: _finite(value) for column, value in row.items() if column != "text"}
        except RecursionError:
            yield Fault(file.name, line, "nested too deeply")
            continue
        if not isinstance(text, str) or not text.strip():
            yield Fault(file.name, line, "no `text` in this row", row)
        elif key in seen:
            yield Fault(file.name, line, f"the id {key!r} stands in line {seen[key]} already", row)
        else:
            seen[key] = line
            name = f"{source}#{key}"
            title = str(row.get("title") or name)
            yield Document(_id(name), name, title, text, rest, modified_at=file.modified_at, line=line)
    if not found:
        yield Fault(file.name, None, "no rows in it")


def _key(given: Any, line: int) -> str:
    # 0 is an id like others; the empty cell is none, and neither is NaN.
    missing = given is None or given == "" or (isinstance(given, float) and math.isnan(given))
    return str(line if missing else given)


def _finite(value: Any) -> Any:
    """Without NaN, by which Parquet and pandas say that a number is missing, and infinities: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _id(source: str) -> str:
    return str(uuid.uuid5(DOCUMENT_NAMESPACE, source))
