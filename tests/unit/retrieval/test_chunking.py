from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.data.documents import Document, read_file
from tandem.data.headings import Heading, markdown_headings, rst_headings
from tandem.data.sources import DataFile
from tandem.retrieval.chunking import Chunk, chunk_document
from tandem.retrieval.markup import RULE
from tandem.specs.index import ChunkSpec

SETTINGS = """\
========
Settings
========

Core Settings
=============

.. setting:: FIRST

``FIRST``
---------

Default: ``1``

The first.

.. setting:: SECOND

``SECOND``
----------

Default: ``2``

""" + "".join(f"Paragraph {n} has some eight words of text here.\n\n" for n in range(20))


class Words:
    """Counts words, so that tests can count too."""

    def token_starts(self, text: str) -> list[int]:
        return [match.start() for match in re.finditer(r"\S+", text)]


def cut(text: str, tokens: int = 40, overlap: int = 10, **kwargs: object) -> list[Chunk]:
    document = Document("i", "a.rst", "A", text, {}, rst_headings(text))
    options = {"salt": "s", "tenant": None, **kwargs}
    return chunk_document(document, ChunkSpec(tokens=tokens, overlap=overlap), Words(), **options)  # type: ignore[arg-type]


def test_a_section_that_fits_is_one_chunk_with_its_heading() -> None:
    first = cut(SETTINGS)[0]
    assert first.section == "Settings > Core Settings > FIRST"
    assert first.text == ".. setting:: FIRST\n\n``FIRST``\n---------\n\nDefault: ``1``\n\nThe first."


def test_no_chunk_mixes_sections() -> None:
    chunks = cut(SETTINGS)
    assert [chunk.section for chunk in chunks if "FIRST" in chunk.text] == ["Settings > Core Settings > FIRST"]
    assert all(chunk.section.endswith("SECOND") for chunk in chunks[1:])
    assert not any("SECOND" in chunk.embedding_text for chunk in chunks[:1])


def test_a_long_section_is_cut_at_paragraphs_with_the_heading_in_the_first_chunk() -> None:
    second = [chunk for chunk in cut(SETTINGS, overlap=0) if chunk.section.endswith("SECOND")]
    assert second[0].text.startswith(".. setting:: SECOND\n\n``SECOND``")
    assert "Default: ``2``" in second[0].text
    assert all(chunk.text.startswith("Paragraph") and chunk.text.endswith("here.") for chunk in second[1:])


def test_neighbours_overlap_within_a_section() -> None:
    second = [chunk for chunk in cut(SETTINGS, overlap=10) if chunk.section.endswith("SECOND")]
    assert all(later.start < earlier.end for earlier, later in pairwise(second))
    assert all(later.start > earlier.start for earlier, later in pairwise(second))


def test_ruled_lines_are_neither_counted_nor_embedded() -> None:
    (chunk,) = cut("Title\n=====\n\n" + "word " * 16, tokens=17, overlap=0)
    assert "=====" in chunk.text
    assert "=====" not in chunk.embedding_text
    assert chunk.embedding_text.startswith("Title\n")


def test_lines_longer_than_a_chunk_are_cut_at_sentences_then_anywhere() -> None:
    sentence = "one two three four five six seven eight nine ten. "
    chunks = cut(sentence * 8, tokens=16, overlap=0)
    assert all(chunk.text.endswith("ten.") for chunk in chunks)
    assert len(cut("word " * 100, tokens=16, overlap=0)) == 7


def test_ids_depend_on_what_is_stored_and_nothing_else() -> None:
    ids = [chunk.id for chunk in cut(SETTINGS)]
    assert ids == [chunk.id for chunk in cut(SETTINGS)]
    assert len(set(ids)) == len(ids)
    for other in (
        cut(SETTINGS + "more\n"),
        cut(SETTINGS, salt="x"),
        cut(SETTINGS, tenant="t"),
        cut(SETTINGS, tokens=41),
    ):
        assert not set(ids) & {chunk.id for chunk in other}


def test_a_heading_without_text_of_its_own_is_only_a_title() -> None:
    assert [chunk.section for chunk in cut("A\n=\n".replace("=", "===") + "\nB\n---\n\ntext\n")] == ["A > B"]
    assert [chunk.section for chunk in cut("Alone\n=====\n")] == ["Alone"]


def test_text_before_the_first_heading_is_kept() -> None:
    text = "Preface here.\n\n# One\n\nbody\n"
    document = Document("i", "a.md", "Named", text, {}, markdown_headings(text))
    chunks = chunk_document(document, ChunkSpec(), Words(), salt="", tenant=None)
    assert [(chunk.section, chunk.text) for chunk in chunks] == [("Named", "Preface here."), ("One", "# One\n\nbody")]


@pytest.mark.parametrize("text", ["", " \n ", "\n\n"])
def test_nothing_makes_no_chunk(text: str) -> None:
    assert cut(text) == []


LINES = st.lists(st.text(alphabet="ab .\n=-#\t", max_size=40), max_size=30).map("\n".join)


@given(text=LINES, tokens=st.integers(16, 40), overlap=st.integers(0, 15))
def test_chunks_are_slices_that_cover_every_word_within_the_limit(text: str, tokens: int, overlap: int) -> None:
    chunks = cut(text, tokens=tokens, overlap=overlap)
    headings = rst_headings(text)
    covered = bytearray(len(text))
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert len(RULE.sub("", chunk.text).split()) <= tokens
        covered[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    titles = [(heading.start, heading.body) for heading in headings]
    for match in re.finditer(r"\S+", text):
        in_a_title = any(low <= match.start() < high for low, high in titles)
        assert in_a_title or all(covered[match.start() : match.end()])


def test_chunks_of_a_file_are_found_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(("# Ä title\r\n\r\n" + "Wörter und mehr. " * 50).encode())
    (document,) = read_file(DataFile.local(tmp_path / "a.md"), "a.md").documents
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    chunks = chunk_document(document, ChunkSpec(tokens=20, overlap=5), Words(), salt="", tenant=None)
    assert len(chunks) > 5
    assert all(chunk.text in text for chunk in chunks)


def test_a_chunk_knows_its_page_its_line_and_the_time_and_only_the_page_comes_of_its_content() -> None:
    text = "first " * 30 + "\n\n" + "second " * 30
    headings = (Heading(1, "page 1", 0, 0, page=1), Heading(1, "page 3", 182, 182, page=3))
    document = Document("i", "a.pdf", "A", text, {}, headings, modified_at="2026-01-01T00:00:00+00:00", line=7)

    def chunks(of: Document) -> list[Chunk]:
        return chunk_document(of, ChunkSpec(tokens=20, overlap=0), Words(), salt="", tenant=None)

    made = chunks(document)
    assert [chunk.page for chunk in made] == [1, 1, 3, 3]
    assert {(chunk.line, chunk.modified_at) for chunk in made} == {(7, "2026-01-01T00:00:00+00:00")}
    # A file that was touched, a row that moved: nothing to write again.
    touched = chunks(replace(document, modified_at="2026-02-02T00:00:00+00:00", line=8))
    assert [chunk.id for chunk in touched] == [chunk.id for chunk in made]
    assert {chunk.page for chunk in cut("plain words")} == {None}
