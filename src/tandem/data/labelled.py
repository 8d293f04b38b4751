"""Texts with labels: from a table, or from a folder that holds one folder of text files per label."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.uris import resolve
from tandem.data.quarantine import Fault, check_quarantined, write_quarantine
from tandem.data.sources import DataFile, list_data_files
from tandem.data.tables import Row, scan_rows
from tandem.errors import DataError

_ID_DIGITS = 16
TEXTS = ".txt"


@dataclass(frozen=True)
class LabelledRow:
    """A text and the class it belongs to.

    Args:
        id: As given; for a file its path inside the folder; else a hash of text and label.
        text: The text, as it stands.
        label: The class's name; numbers become their text.
    """

    id: str
    text: str
    label: str


def read_labelled(uri: str, *, quarantine: Path, max_quarantined: float) -> list[LabelledRow]:
    """Texts with labels, in the order of the files and of their rows.

    A folder of folders is read as scikit-learn's ``load_files`` does: each folder in it is a label, each .txt file
    under that one a text. Rows that stand twice are kept: `tandem.data.duplicates` finds them.

    Args:
        uri: Such a folder on this machine; or files with `text` and `label`, as `tandem.data.sources` names them.
        quarantine: Bad rows are appended here, with file, line and reason.
        max_quarantined: The share of bad rows, 0 to 1, above which all of it is refused.

    Raises:
        DataError: Missing, empty, or too many bad rows.
    """
    folder = Path(uri.removeprefix("file:")).expanduser()
    scanned = _scan_folder(folder) if holds_texts(folder) else _scan_tables(list_data_files(uri))
    rows: list[LabelledRow] = []
    faults: list[Fault] = []
    for found in scanned:
        (rows if isinstance(found, LabelledRow) else faults).append(found)  # type: ignore[arg-type]
    write_quarantine(quarantine, faults)
    if not rows and not faults:
        raise DataError("no rows in it", where=uri, remedy="give a file with at least one row")
    check_quarantined(faults, len(rows) + len(faults), max_quarantined, what="rows", where=uri, path=quarantine)
    return rows


def labelled_source(uri: str, *, storage: Path) -> str:
    """What `read_labelled` takes: the folder or file that an archive, a hub or an artifact stands for; else the URI.

    Args:
        uri: See `tandem.artifacts.uris`; or files, as `tandem.data.sources` names them.
        storage: Where `artifact:` URIs are looked up.

    Raises:
        InputError, NotFoundError, UnreachableError: From resolving the URI.
    """
    packed = uri.partition(":")[0] in ("pypi", "hf", "artifact")
    return str(resolve(uri, storage=storage)) if packed else uri


def holds_texts(path: Path) -> bool:
    """Whether it is a folder with a folder of .txt files in it."""
    return path.is_dir() and any(path.glob(f"*/**/*{TEXTS}"))


def parse_labelled(row: Row) -> LabelledRow:
    """One row with `text`, `label` and maybe `id`.

    Raises:
        DataError: A column is missing or of the wrong type.
    """
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(_missing("text", text, "a string that isn't empty"))
    label = _label(row.get("label"))
    given = row.get("id")
    known = given is not None and str(given).strip()
    digest = hashlib.sha256(f"{label}\0{text}".encode()).hexdigest()[:_ID_DIGITS]
    return LabelledRow(str(given) if known else digest, text, label)


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return str(int(value))  # a column with gaps comes out of many tools as 1.0, 2.0, …
    if isinstance(value, int | str) and str(value).strip():
        return str(value).strip()
    raise DataError(_missing("label", value, "a string or a whole number"))


def _missing(column: str, value: Any, wanted: str) -> str:
    if value is None:
        return f"no `{column}`"
    if isinstance(value, str):
        return f"`{column}` is empty"
    return f"`{column}` must be {wanted}, not {type(value).__name__}"


def _scan_tables(files: Sequence[DataFile]) -> Iterator[LabelledRow | Fault]:
    for file in files:
        for line, row in scan_rows(file):
            if isinstance(row, Fault):
                yield row
                continue
            try:
                yield parse_labelled(row)
            except DataError as error:
                yield Fault(file.name, line, error.what, row)


def _scan_folder(path: Path) -> Iterator[LabelledRow | Fault]:
    labels = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith((".", "__")))
    files = [(folder.name, file) for folder in labels for file in sorted(folder.rglob(f"*{TEXTS}")) if file.is_file()]
    for label, file in files:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            yield Fault(str(file), None, f"not UTF-8 (byte {error.start})")
            continue
        if text.strip():
            yield LabelledRow(file.relative_to(path).as_posix(), text, label)
        else:
            yield Fault(str(file), None, "an empty file")
