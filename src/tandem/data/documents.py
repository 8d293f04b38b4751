"""Readers: from a file to the documents in it, as text with known headings."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.artifacts.filesystems import is_remote
from tandem.data.headings import Heading, markdown_headings, rst_headings
from tandem.data.quarantine import Fault
from tandem.data.sources import DataFile, glob_matcher, walk
from tandem.data.tables import TABLES, scan_rows
from tandem.errors import DataError
from tandem.specs.index import SourceSpec

DOCUMENT_NAMESPACE = uuid.UUID("6f2a1f0e-3b0c-5d55-9a76-2f1f7a3f5a11")
_HTML_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


@dataclass(frozen=True)
class Document:
    """One document.

    Args:
        id: uuid5 of the source: the same document has the same id in every run.
        source: Path relative to the source's folder, with ``/``; for a row of a table, ``path#id``.
        title: The first heading, the page's title, or the file's name.
        text: What was read, with ``\\n`` line ends; chunks are slices of it.
        metadata: A row's other columns; empty for a file.
        headings: The sections, in order.
    """

    id: str
    source: str
    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()


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
            remedy=f"check the folder and globs; {kinds}",
        )
    return files


def read_file(file: DataFile, source: str) -> Reading:
    """Read one file; what can't be used is returned as faults, never raised.

    Args:
        file: txt, md, rst, html, pdf; or jsonl, csv, parquet, where each row with a `text` column is a document.
        source: Its path relative to the source: `Document.source`.

    Returns:
        Documents with some text in them, and a fault for whatever else there was.
    """
    try:
        if file.suffix not in SUFFIXES:
            raise DataError(f"files of type {file.suffix or 'no suffix'} can't be read")
        if file.suffix in TABLES:
            return _read_table(file, source)
        document = _READERS[file.suffix](file, source)
        if not document.text.strip():
            scan = "; a scan needs text recognition first" if file.suffix == ".pdf" else ""
            raise DataError(f"no text in it{scan}")
    except DataError as error:
        return Reading((), (Fault(file.name, None, error.what),))
    except OSError as error:
        return Reading((), (Fault(file.name, None, f"can't be opened: {error.strerror or error}"),))
    except RecursionError:
        return Reading((), (Fault(file.name, None, "nested too deeply"),))
    return Reading((document,))


def _document(source: str, title: str, text: str, headings: tuple[Heading, ...]) -> Document:
    return Document(str(uuid.uuid5(DOCUMENT_NAMESPACE, source)), source, title, text, {}, headings)


def _decode(file: DataFile) -> str:
    with file.open() as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise DataError("a binary file, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_text(file: DataFile, source: str) -> Document:
    text = _decode(file)
    if file.suffix in (".md", ".markdown"):
        headings = markdown_headings(text)
    else:
        # .txt is reStructuredText in many projects (Django's among them), Markdown in others, prose in the rest.
        headings = rst_headings(text) or markdown_headings(text)
    return _document(source, headings[0].title if headings else Path(file.path).stem, text, headings)


def _read_html(file: DataFile, source: str) -> Document:
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString, Tag

    soup = BeautifulSoup(_decode(file), "html.parser")
    for unseen in soup(["script", "style", "template", "noscript", "nav", "svg"]):
        unseen.decompose()
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    if soup.title:
        soup.title.decompose()
    parts: list[str] = []
    headings: list[Heading] = []
    length = 0

    def add(text: str) -> None:
        nonlocal length
        parts.append(text)
        length += len(text)

    def walk(node: Tag) -> None:
        for child in node.children:
            if isinstance(child, NavigableString):
                if type(child) is NavigableString:  # comments and doctypes are subclasses
                    add(str(child) if node.name == "pre" else " ".join(str(child).split("\n")))
            elif isinstance(child, Tag) and child.name in _HTML_HEADINGS:
                add("\n\n")
                start = length
                name = " ".join(child.get_text(" ").split())
                add(name + "\n\n")
                if name:
                    headings.append(Heading(int(child.name[1]), name, start, length))
            elif isinstance(child, Tag):
                block = child.name in _HTML_BLOCKS
                add("\n\n" if block and child.name in _HTML_PARAGRAPHS else "\n" if block else "")
                walk(child)
                add("\n" if block else "")

    walk(soup)
    return _document(
        source, title or (headings[0].title if headings else Path(file.path).stem), "".join(parts), tuple(headings)
    )


_HTML_PARAGRAPHS = frozenset({"p", "pre", "blockquote", "section", "article", "table", "ul", "ol", "dl", "div", "main"})
_HTML_BLOCKS = _HTML_PARAGRAPHS | {"li", "tr", "br", "dt", "dd", "header", "footer", "body", "html", "head", "aside"}


def _read_pdf(file: DataFile, source: str) -> Document:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    parts: list[str] = []
    headings: list[Heading] = []
    position = 0
    try:
        with file.open() as stream:
            reader = PdfReader(io.BytesIO(stream.read()))
        title = (reader.metadata.title if reader.metadata else None) or Path(file.path).stem
        for number, page in enumerate(reader.pages, start=1):
            text = page.extract_text().strip()
            if not text:
                continue
            headings.append(Heading(1, f"page {number}", position, position))
            parts.append(text + "\n\n")
            position += len(parts[-1])
    # pypdf lets the errors of Python through for files that are broken in ways it didn't foresee.
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"not a PDF that can be read: {error}") from None
    return _document(source, title, "".join(parts), tuple(headings))


def _read_table(file: DataFile, source: str) -> Reading:
    documents: list[Document] = []
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for line, row in scan_rows(file):
        if isinstance(row, Fault):
            faults.append(row)
            continue
        text = row.get("text")
        key = str(row.get("id") or line)
        if not isinstance(text, str) or not text.strip():
            faults.append(Fault(file.name, line, "no `text` in this row", row))
        elif key in seen:
            faults.append(Fault(file.name, line, f"the id {key!r} stands in line {seen[key]} already", row))
        else:
            seen[key] = line
            name = f"{source}#{key}"
            rest = {column: value for column, value in row.items() if column != "text"}
            title = str(row.get("title") or name)
            documents.append(Document(str(uuid.uuid5(DOCUMENT_NAMESPACE, name)), name, title, text, rest))
    if not documents and not faults:
        faults.append(Fault(file.name, None, "no rows in it"))
    return Reading(tuple(documents), tuple(faults))


_READERS: dict[str, Callable[[DataFile, str], Document]] = {
    **dict.fromkeys((".txt", ".rst", ".md", ".markdown"), _read_text),
    **dict.fromkeys((".html", ".htm"), _read_html),
    ".pdf": _read_pdf,
}
SUFFIXES = frozenset(_READERS) | frozenset(TABLES)
