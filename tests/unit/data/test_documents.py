from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from tandem.data import tables
from tandem.data.documents import SUFFIXES, Document, Reading, list_files, read_file, scan_file
from tandem.data.quarantine import Fault
from tandem.data.sources import DataFile
from tandem.errors import DataError, InputError, UnreachableError
from tandem.specs.index import SourceSpec


def write_pdf(path: Path, *pages: str) -> None:
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = stream
    writer.write(path)


def read(path: Path) -> Reading:
    return read_file(DataFile.local(path), path.name)


def one(path: Path) -> tuple[str, str, list[str]]:
    (document,) = read(path).documents
    return document.source, document.title, [heading.title for heading in document.headings]


def test_text_is_kept_as_it_is_and_its_title_is_the_first_heading(tmp_path: Path) -> None:
    text = "Title\n=====\n\nBody ``x``.\n\n\tend  \n"
    for name in ("a.rst", "a.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        (document,) = read(tmp_path / name).documents
        assert document.text == text
        assert (document.title, document.source) == ("Title", name)


def test_markdown_and_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\n## Two\nx\n")
    (tmp_path / "b.txt").write_text("only prose\n")
    assert one(tmp_path / "a.md") == ("a.md", "One", ["One", "Two"])
    assert one(tmp_path / "b.txt") == ("b.txt", "b", [])


def test_html_gives_its_words_without_scripts_and_with_headings(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<html><head><title>Page</title><style>p{}</style></head><body><nav>menu</nav>"
        "<h1>Top</h1><p>First\n part, <b>bold</b>.</p><script>var x</script><h2>Sub <i>two</i></h2>"
        "<ul><li>one</li><li>two</li></ul><pre>a\n  b</pre><!-- no --></body>"
    )
    (document,) = read(tmp_path / "a.html").documents
    assert document.title == "Page"
    assert [(heading.level, heading.title) for heading in document.headings] == [(1, "Top"), (2, "Sub two")]
    assert "First  part, bold." in document.text
    assert "one\n" in document.text
    assert "a\n  b" in document.text
    assert not any(word in document.text for word in ("menu", "var x", "p{}", "no", "Page"))
    for heading in document.headings:
        assert document.text[heading.start : heading.body].strip() == heading.title


def test_a_pdf_has_its_pages_as_sections(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", "first page", "second page")
    (document,) = read(tmp_path / "a.pdf").documents
    assert [(heading.title, heading.page) for heading in document.headings] == [("page 1", 1), ("page 2", 2)]
    assert document.text[document.headings[1].start :].startswith("second page")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_each_row_of_a_table_is_a_document(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        path.write_text('{"id": "x", "text": "one", "team": "red"}\n\n{"id": "y", "text": "two", "team": "blue"}\n')
    elif suffix == ".csv":
        path.write_text("id,text,team\nx,one,red\ny,two,blue\n")
    else:
        table = {"id": ["x", "y"], "text": ["one", "two"], "team": ["red", "blue"]}
        pyarrow.parquet.write_table(pyarrow.table(table), path)
    documents = read(path).documents
    assert [(document.source, document.text) for document in documents] == [
        (f"{path.name}#x", "one"),
        (f"{path.name}#y", "two"),
    ]
    assert documents[1].metadata == {"id": "y", "team": "blue"}
    assert len({document.id for document in documents}) == 2


def test_bad_rows_are_set_aside_and_the_good_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = ['{"text": "good", "id": 1}', "{broken", '["list"]', '{"no": "text"}', '{"text": "twice", "id": 1}']
    path.write_text("\n".join(rows))
    reading = read(path)
    assert [document.text for document in reading.documents] == ["good"]
    assert [fault.line for fault in reading.faults] == [2, 3, 4, 5]
    assert all(fault.file == str(path) for fault in reading.faults)
    assert "stands in line 1 already" in reading.faults[3].reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "no text"),
        ("a.md", b"  \n", "no text"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b"a\0b", "binary"),
        ("a.pdf", b"not a pdf", "not a PDF"),
        ("a.html", b"<html><script>x</script></html>", "no text"),
        ("a.parquet", b"PAR1 no", "not a Parquet file"),
        ("a.csv", b'a,text\n1,"open', "not CSV"),
        ("a.csv", b"a,text\n", "no rows"),
        ("a.html", b"<p>x</p><![foo>", "not HTML"),
        ("a.html", b"<p>" * 5000 + b"x", "nested too deeply"),
        ("a.jsonl", b'{"text": "x", "n": ' + b"1" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_broken_document_is_a_fault_with_its_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    reading = read(tmp_path / name)
    assert reading.documents == ()
    assert reason in reading.faults[0].reason


ROWS = [f"{n},text {n}\n" for n in range(1, 3001)]


def csv_of(*rows: str) -> bytes:
    return "".join(["id,text\n", *rows]).encode()


def parquet_of(texts: list[bytes]) -> bytes:
    """A row group of 1,024 rows each; texts that aren't UTF-8 are written as they are."""
    binary = pyarrow.array(texts, pyarrow.binary())
    strings = pyarrow.Array.from_buffers(pyarrow.string(), len(texts), binary.buffers())
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": strings}), sink, row_group_size=1024)
    return sink.getvalue()


TEXTS = [row.encode() for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "documents", "line", "reason"),
    [
        ("a.csv", csv_of(*ROWS[:4], '5,"open\n', *ROWS[5:]), 4, 6, "not CSV"),
        ("a.csv", csv_of('1,"open\n', *ROWS[1:]), 0, 2, "not CSV"),
        ("a.csv", csv_of('1,"a\nb"\n', '2,"c" d\n', *ROWS[2:]), 1, 4, "not CSV"),
        # All that stands before the byte is there, although it was read in one go with it.
        ("a.csv", csv_of(*ROWS[:6]) + b"7,caf\xe9\n" + csv_of(*ROWS), 6, 8, "not UTF-8 (byte 5 of line 8)"),
        ("a.csv", b"id,\xff\n", 0, 1, "not UTF-8"),
        ("a.parquet", parquet_of([*TEXTS[:1500], b"\xff", *TEXTS[1501:]]), 1024, 1025, "not a Parquet file"),
        ("a.parquet", parquet_of(TEXTS)[:-9], 0, None, "not a Parquet file"),
        ("a.parquet", b"", 0, None, "not a Parquet file"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "tw', 1, 2, "not JSON"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "caf\xc3', 1, 2, "not UTF-8"),
        ("a.csv", b"id,text,more\n1,one,x\n2,tw", 1, 3, "too few columns"),
    ],
)
def test_a_table_that_breaks_off_ends_with_a_fault_that_is_open_ended(
    tmp_path: Path, name: str, content: bytes, documents: int, line: int | None, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    reading = read(tmp_path / name)
    assert len(reading.documents) == documents
    (fault,) = reading.faults
    assert (fault.file, fault.line, fault.open_ended) == (str(tmp_path / name), line, True)
    assert reason in fault.reason


@pytest.mark.parametrize(
    ("name", "content", "faults"),
    [
        ("a.csv", b"id,text\n1\n2,b,c\n3,\n4,d,e", 4),
        ("a.csv", b"id,text\r1\r2,b\r3\r", 2),
        ("a.jsonl", b'{"text": "x", "n": ' + b"1" * 5000 + b"}", 1),
        ("a.jsonl", b'{"text": "on\n[]\n{}\n{"text": "caf\xe9"}\n{"text": "x"}', 4),
        # Its last row is whole, and no document.
        ("a.jsonl", b'{"text": "x"}\n{"text": 1}', 1),
        ("a.txt", b"caf\xe9", 1),
        ("a.csv", b"id,text\n", 1),
    ],
)
def test_a_broken_row_or_document_is_one_and_not_open_ended(
    tmp_path: Path, name: str, content: bytes, faults: int
) -> None:
    (tmp_path / name).write_bytes(content)
    assert [fault.open_ended for fault in read(tmp_path / name).faults] == [False] * faults


@pytest.fixture
def usual_cells() -> Iterator[None]:
    """The limit of a fresh process."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


def test_a_long_cell_is_a_document_like_others(tmp_path: Path, usual_cells: None) -> None:
    rows = [f'{n},"text {n}, {"word " * 600_000 if n == 4 else ""}"\n' for n in range(1, 1001)]
    paths = [tmp_path / f"{name}.csv" for name in "abcd"]
    for path in paths:
        path.write_text("".join(["id,text\n", *rows]))
    with ThreadPoolExecutor(4) as threads:
        for reading in threads.map(read, paths):
            assert (len(reading.documents), reading.faults) == (1000, ())
            assert len(reading.documents[3].text) > 3_000_000


def test_a_cell_without_end_is_not_read_into_memory(
    tmp_path: Path, usual_cells: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_CELL_CHARACTERS", 200_000)
    (tmp_path / "a.csv").write_text("".join(["id,text\n", '1,"open\n', *ROWS * 20]))
    (fault,) = read(tmp_path / "a.csv").faults
    assert (fault.line, fault.open_ended) == (2, True)
    assert "larger than field limit (200000)" in fault.reason
    # What somebody else in this process needs stays.
    csv.field_size_limit(10**9)
    read(tmp_path / "a.csv")
    assert csv.field_size_limit() == 10**9


def test_files_are_chosen_by_globs_and_type(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b.md", "sub/c.png", ".git/d.txt", "sub/old/e.txt", ".f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    folder = str(tmp_path)
    every = list_files(SourceSpec(uri="x"), folder)
    assert [name for name, _ in every] == ["a.txt", "sub/b.md", "sub/old/e.txt"]
    some = list_files(SourceSpec(uri="x", include=("sub/**/*",), exclude=("sub/old/*",)), folder)
    assert [name for name, _ in some] == ["sub/b.md"]
    assert [name for name, _ in list_files(SourceSpec(uri="x", include=("[a-c].txt",)), folder)] == ["a.txt"]
    ((name, file),) = list_files(SourceSpec(uri="x"), f"{folder}/a.txt")
    assert (name, file.path) == ("a.txt", f"{folder}/a.txt")


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        (SourceSpec(uri="gone"), "gone", "no such file"),
        (SourceSpec(uri="empty"), "empty", "no document"),
        (SourceSpec(uri=".", include=("*.rst",)), ".", r"matches \*\.rst"),
        (SourceSpec(uri=".", include=("../*",)), ".", "leaves the folder"),
        (SourceSpec(uri="a.png"), "a.png", r"type \.png"),
    ],
)
def test_nothing_to_read_is_an_error_with_a_remedy(tmp_path: Path, source: SourceSpec, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(DataError, match=message) as caught:
        list_files(source, str(tmp_path / path))
    assert caught.value.remedy
    if "no document" in message:
        assert "Nothing is deleted" in caught.value.remedy


def test_documents_on_another_filesystem_are_read_as_those_here(tmp_path: Path) -> None:
    contents = {
        "handbook/a.md": b"# Title\n\nBody\n",
        "handbook/deep/b.html": b"<title>T</title><h1>H</h1><p>x</p>",
        "handbook/rows.jsonl": b'{"id": "1", "text": "one"}\n',
        "handbook/.hidden.md": b"x",
    }
    write_pdf(tmp_path / "c.pdf", "page one")
    contents["handbook/c.pdf"] = (tmp_path / "c.pdf").read_bytes()
    filesystem = fsspec.filesystem("memory")
    for name, content in contents.items():
        filesystem.pipe_file(f"/{name}", content)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    try:
        found = [
            [read_file(file, name) for name, file in list_files(SourceSpec(uri="x"), root)]
            for root in ("fsspec+memory://handbook", str(tmp_path / "handbook"))
        ]
        (alone,) = list_files(SourceSpec(uri="x"), "fsspec+memory://handbook/a.md")
    finally:
        filesystem.store.clear()
    # The one in memory doesn't say when a file was changed.
    assert found[0] == [
        replace(reading, documents=tuple(replace(one, modified_at=None) for one in reading.documents))
        for reading in found[1]
    ]
    assert [one.source for reading in found[0] for one in reading.documents] == [
        "a.md",
        "c.pdf",
        "deep/b.html",
        "rows.jsonl#1",
    ]
    assert alone[0] == "a.md"
    with pytest.raises(DataError, match="no document"):
        list_files(SourceSpec(uri="x"), "fsspec+memory://nothing")


BEGINNINGS = {
    ".pdf": (
        b"%PDF-1.4\n",
        b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\ntrailer << /Root 1 0 R >>\n",
    ),
    ".html": (b"<!", b"<![", b"<![foo>", b"<p>a<", b"<h1>&#", b"<!DOCTYPE [", b"<?"),
    ".jsonl": (b'{"text": "', b'{"text": "x", "more": [', b"[" * 3000),
    ".csv": (b"id,text\n1,", b'text,meta\nx,"[', b'text\n"'),
    ".parquet": (b"PAR1",),
}


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@example(data=None)
def test_whatever_stands_in_a_file_becomes_documents_or_faults(tmp_path: Path, suffix: str, data: Any) -> None:
    path = tmp_path / f"a{suffix}"
    if data is None:
        path.write_bytes(b"".join(BEGINNINGS.get(suffix, (b"",))))
    else:
        beginning = data.draw(st.sampled_from((b"", *BEGINNINGS.get(suffix, ()))))
        path.write_bytes(beginning + data.draw(st.binary(max_size=200) | st.text(max_size=200).map(str.encode)))
    found = list(scan_file(DataFile.local(path), path.name))
    assert found
    for one in found:
        assert isinstance(one, Fault) or one.text.strip()
        if isinstance(one, Document):
            # What the index job does with it next.
            json.dumps([one.title, one.metadata], ensure_ascii=False, default=str).encode()
            one.text.encode()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), byte=st.integers(0, 255), suffix=st.sampled_from([".pdf", ".parquet"]))
def test_a_file_with_a_wrong_byte_becomes_documents_or_faults(
    tmp_path: Path, at: float, byte: int, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pdf":
        write_pdf(path, "first page", "second page")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"id": ["x", "y"], "text": ["one", "two"]}), path)
    whole = bytearray(path.read_bytes())
    whole[int(at * (len(whole) - 1))] = byte
    path.write_bytes(whole)
    for one in scan_file(DataFile.local(path), path.name):
        if isinstance(one, Document):
            one.text.encode()


class Throttled:
    """A filesystem whose files give so many bytes, then the error of a store that has too much to do."""

    def __init__(self, content: bytes, error: OSError, *, after: int) -> None:
        self._content, self._error, self._after = content, error, after

    def open_input_stream(self, path: str, *, compression: None) -> Any:
        return self.open_input_file(path)

    def open_input_file(self, _: str) -> Any:
        if not self._after:
            raise self._error
        whole, error, after = self._content, self._error, self._after

        class Stream(io.BytesIO):
            left = after

            def readinto(self, buffer: Any, /) -> int:
                if Stream.left <= 0:
                    raise error
                Stream.left -= 1
                return super().readinto(memoryview(buffer)[:100])

        return Stream(whole)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_a_file_that_cannot_be_read_now_is_no_fault_of_the_file(suffix: str, after: int) -> None:
    content = b'{"text": "' + b"x" * 90 + b'"}\n'
    for error, expected in (
        (OSError("AWS Error SLOW_DOWN"), UnreachableError),
        (TimeoutError(110, "Connection timed out"), UnreachableError),
        (PermissionError(13, "Permission denied"), InputError),
    ):
        filesystem = Throttled(content * 500, error, after=after)
        file = DataFile(f"s3://bucket/a{suffix}", f"bucket/a{suffix}", filesystem, len(content) * 500)
        with pytest.raises(expected, match="can't be read") as caught:
            list(scan_file(file, "a"))
        assert caught.value.where == file.name
        assert caught.value.remedy


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.txt").write_text("x")
    (tmp_path / "closed").mkdir()
    scandir: Callable[..., Any] = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="closed: can't be read: Permission denied"):
        list_files(SourceSpec(uri="x"), str(tmp_path))


def test_a_table_is_read_as_far_as_it_is_asked_for() -> None:
    row = b'{"text": "' + b"x" * 1000 + b'"}\n'
    # After so many reads it fails: whoever reads ahead would notice.
    filesystem = Throttled(row * 10_000, OSError("read too far"), after=200)
    found = scan_file(DataFile("m:a.jsonl", "a.jsonl", filesystem, len(row) * 10_000), "a.jsonl")
    assert [next(found).line for _ in range(3)] == [1, 2, 3]


def test_numbers_that_json_has_not_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = {"text": ["one"], "score": [float("nan")], "many": [[1.0, float("inf")]]}
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    (document,) = read(path).documents
    assert document.metadata == {"score": None, "many": [1.0, None]}


def test_zero_is_an_id_and_what_is_missing_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"id": {id}, "text": "x"}}\n' for id in ("1", "0", "NaN", '""', "null"))
    )
    reading = read(tmp_path / "a.jsonl")
    assert [one.source for one in reading.documents] == [f"a.jsonl#{key}" for key in (1, 0, 3, 4, 5)]


def test_a_document_knows_its_line_and_when_its_file_was_changed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"id": "x", "text": "one"}\n{"text": "two"}\n')
    os.utime(tmp_path / "a.jsonl", (0, 86_400))
    documents = read(tmp_path / "a.jsonl").documents
    assert [(one.source, one.line) for one in documents] == [("a.jsonl#x", 2), ("a.jsonl#3", 3)]
    assert {one.modified_at for one in documents} == {"1970-01-02T00:00:00+00:00"}
