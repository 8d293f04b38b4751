from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from tandem.data.documents import Reading, list_files, read_file
from tandem.data.sources import DataFile
from tandem.errors import DataError
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
    assert [heading.title for heading in document.headings] == ["page 1", "page 2"]
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
    ],
)
def test_a_broken_document_is_a_fault_with_its_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    reading = read(tmp_path / name)
    assert reading.documents == ()
    assert reason in reading.faults[0].reason


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
    assert found[0] == found[1]
    assert [one.source for reading in found[0] for one in reading.documents] == [
        "a.md",
        "c.pdf",
        "deep/b.html",
        "rows.jsonl#1",
    ]
    assert alone[0] == "a.md"
    with pytest.raises(DataError, match="no document"):
        list_files(SourceSpec(uri="x"), "fsspec+memory://nothing")
