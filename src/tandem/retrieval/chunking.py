"""Cutting documents into chunks along their structure: sections, then paragraphs, lines, sentences.

A chunk is a slice of its document and never crosses a heading: a section that fits is one chunk with its heading, so
that what is said of one thing isn't mixed with what is said of the next.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from tandem.data.documents import Document
from tandem.errors import ModelError
from tandem.retrieval.markup import RULE, embedding_text
from tandem.specs.index import ChunkSpec

CHUNK_NAMESPACE = uuid.UUID("0f4b8f06-9d52-5b7d-8f83-6f0a5f5d7c21")
SECTION_SEPARATOR = " > "
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Tokenizer(Protocol):
    """Where the tokens of a text begin."""

    def token_starts(self, text: str) -> list[int]:
        """Character offsets of the tokens' beginnings, rising; special tokens don't count."""


class FastTokenizer:
    """The embedder's own tokenizer, read from its ``tokenizer.json``.

    Args:
        model: The embedder's folder.

    Raises:
        ModelError: The folder has no such file.
    """

    def __init__(self, model: Path) -> None:
        from tokenizers import Tokenizer as Backend

        path = model / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                "no tokenizer.json in it", where=str(model), remedy="name an embedder with a fast tokenizer"
            )
        self._backend = Backend.from_file(str(path))
        self._backend.no_truncation()
        self._backend.no_padding()

    def token_starts(self, text: str) -> list[int]:
        """Character offsets of the tokens' beginnings, rising; special tokens don't count."""
        return [start for start, _ in self._backend.encode(text, add_special_tokens=False).offsets]


@dataclass(frozen=True)
class Chunk:
    """A slice of a document: ``text == document.text[start:end]``.

    Args:
        id: uuid5 of what the chunk is made from and with; the same in every run.
        source: The document's source.
        title: The document's title.
        section: The headings above and of this chunk, joined by " > "; the title where there are none.
        text: The slice.
        start: Offset of its first character.
        end: Offset after its last.
        ordinal: Its place among the document's chunks, from 0.
        document_sha256: Hash of the whole document's text.
        tenant: To whom it is shown; None for everyone.
        metadata: The document's metadata.
        page: The page that it stands on, from 1; None where there are no pages.
        line: The row's line of its file (row, for Parquet), from 1; None where the document is a whole file.
        modified_at: When the file was last changed: ISO 8601, UTC; None where that isn't known.

    The last two aren't part of the id: what only moved or was only touched is the same chunk, and is stored as it was.
    """

    id: str
    source: str
    title: str
    section: str
    text: str
    start: int
    end: int
    ordinal: int
    document_sha256: str
    tenant: str | None
    metadata: dict[str, object]
    page: int | None = None
    line: int | None = None
    modified_at: str | None = None

    @property
    def embedding_text(self) -> str:
        """What is embedded, and what its terms are counted in."""
        return embedding_text(tuple(self.section.split(SECTION_SEPARATOR)), self.text)


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    opens_paragraph: bool


class _Measure:
    """Counts the tokens of any slice of one text, which is tokenized once; ruled lines don't count."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        rules = [match.span() for match in RULE.finditer(text)]
        ends = [end for _, end in rules]
        self.starts = [
            start
            for start in tokenizer.token_starts(text)
            if not rules or (after := bisect_right(ends, start)) == len(rules) or start < rules[after][0]
        ]

    def tokens(self, start: int, end: int) -> int:
        return bisect_left(self.starts, end) - bisect_left(self.starts, start)

    def end_after(self, start: int, tokens: int, end: int) -> int:
        """The offset at which the token after the next `tokens` begins, at most `end`."""
        index = bisect_left(self.starts, start) + tokens
        return min(self.starts[index], end) if index < len(self.starts) else end


def chunk_document(
    document: Document, spec: ChunkSpec, tokenizer: Tokenizer, *, salt: str, tenant: str | None
) -> list[Chunk]:
    """Cut one document.

    Args:
        document: Its headings say where sections begin.
        spec: Longest chunk, and overlap of neighbours within a section, in tokens.
        tokenizer: Counts tokens.
        salt: Whatever else decides what is stored for a chunk (embedder, sparse vectors): it is part of the ids, so
            that a change of it makes other chunks.
        tenant: To whom the document is shown; None for everyone.

    Returns:
        Chunks in the document's order.
    """
    measure = _Measure(document.text, tokenizer)
    sha256 = hashlib.sha256(document.text.encode()).hexdigest()
    about = json.dumps([document.title, document.metadata], sort_keys=True, default=str, ensure_ascii=False)
    identity = "\0".join((document.source, sha256, spec.model_dump_json(), salt, tenant or "", about))
    pages = [(heading.start, heading.page) for heading in document.headings if heading.page is not None]
    chunks: list[Chunk] = []
    for path, start, end in sections(document):
        for span in _cut(document.text, start, end, spec, measure):
            ordinal = len(chunks)
            chunks.append(
                Chunk(
                    id=str(uuid.uuid5(CHUNK_NAMESPACE, f"{identity}\0{ordinal}")),
                    source=document.source,
                    title=document.title,
                    section=SECTION_SEPARATOR.join(path) or document.title,
                    text=document.text[span[0] : span[1]],
                    start=span[0],
                    end=span[1],
                    ordinal=ordinal,
                    document_sha256=sha256,
                    tenant=tenant,
                    metadata=document.metadata,
                    page=next((page for begin, page in reversed(pages) if begin <= span[0]), None),
                    line=document.line,
                    modified_at=document.modified_at,
                )
            )
    return chunks


def sections(document: Document) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """The sections of a document that have text of their own.

    Args:
        document: With its headings.

    Yields:
        (the titles from the top to this section, start, end); what stands before the first heading has no titles.
        A heading with nothing but subsections below it is only part of their titles.
    """
    headings = document.headings
    first = headings[0].start if headings else len(document.text)
    if document.text[:first].strip():
        yield (), 0, first
    path: list[tuple[int, str]] = []
    for number, heading in enumerate(headings):
        path = [entry for entry in path if entry[0] < heading.level] + [(heading.level, heading.title)]
        following = headings[number + 1] if number + 1 < len(headings) else None
        end = following.start if following else len(document.text)
        has_subsections = following is not None and following.level > heading.level
        if document.text[heading.body : end].strip() or not has_subsections:
            yield tuple(title for _, title in path), heading.start, end


def _cut(text: str, start: int, end: int, spec: ChunkSpec, measure: _Measure) -> Iterator[tuple[int, int]]:
    start, end = _trim(text, start, end)
    if start >= end:
        return
    if measure.tokens(start, end) <= spec.tokens:
        yield start, end
        return
    spans = list(_spans(text, start, end, spec.tokens, measure))
    first = 0
    while first < len(spans):
        last = first  # the chunk is spans[first .. last]
        while last + 1 < len(spans) and measure.tokens(spans[first].start, spans[last + 1].end) <= spec.tokens:
            last += 1
        if last + 1 < len(spans):
            last = _paragraph_end(spans, first, last, spec.tokens, measure)
        yield spans[first].start, spans[last].end
        if last + 1 == len(spans):
            return
        following = last + 1
        while following - 1 > first and measure.tokens(spans[following - 1].start, spans[last].end) <= spec.overlap:
            following -= 1
        first = following


def _paragraph_end(spans: list[_Span], first: int, last: int, limit: int, measure: _Measure) -> int:
    """The last span before a paragraph begins, unless that would leave the chunk less than half full."""
    for candidate in range(last, first - 1, -1):
        if measure.tokens(spans[first].start, spans[candidate].end) < limit / 2:
            break
        if spans[candidate + 1].opens_paragraph:
            return candidate
    return last


def _spans(text: str, start: int, end: int, limit: int, measure: _Measure) -> Iterator[_Span]:
    """The lines of a slice, without blank ones; lines longer than the limit as sentences, those as windows."""
    opens, position = True, start
    while position < end:
        newline = text.find("\n", position, end)
        line_end = end if newline < 0 else newline
        low, high = _trim(text, position, line_end)
        if low >= high:
            opens = True
        else:
            for low_part, high_part in _parts(text, low, high, limit, measure):
                yield _Span(low_part, high_part, opens)
                opens = False
        position = line_end + 1


def _parts(text: str, start: int, end: int, limit: int, measure: _Measure) -> Iterator[tuple[int, int]]:
    if measure.tokens(start, end) <= limit:
        yield start, end
        return
    borders = [start, *(match.end() for match in _SENTENCE_END.finditer(text, start, end)), end]
    for low, high in pairwise(borders):
        position = low
        while position < high:
            stop = measure.end_after(position, limit, high)
            trimmed = _trim(text, position, stop)
            if trimmed[0] < trimmed[1]:
                yield trimmed
            position = stop


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
