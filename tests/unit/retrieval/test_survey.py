"""What an index job makes of documents that can't be used, before it says a word to the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_ins.blocks import Blocks
from tiny_models import write_embedder

from tandem.artifacts.job import JobContext
from tandem.errors import DataError, TandemError
from tandem.retrieval import job
from tandem.specs.index import IndexSpec

ROWS = "".join(f"{n},text {n}\n" for n in range(1, 1001))
BROKEN = f'id,text\n1,one\n2,two\n3,"three\n{ROWS}'
Index = Callable[..., None]


class StoreReachedError(Exception):
    """The documents were good enough: from here on an index is changed."""


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(40):
        (folder / f"{n}.txt").write_text(f"text {n}")
    return folder


@pytest.fixture
def index(docs: Path, embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    def connect(_: object) -> None:
        raise StoreReachedError

    def run(**changes: Any) -> None:
        fields = {"sources": [str(docs)], "embedder": {"model": str(embedder)}, **changes}
        spec = IndexSpec.model_validate({"kind": "index", "name": "docs", **fields})
        cluster: Any = None  # nobody asks for it
        job.run(spec, JobContext("docs-1", "docs", tmp_path / "job", tmp_path, cluster))

    monkeypatch.setattr(job, "_connect_ray", lambda _: None)
    monkeypatch.setattr(job, "_check_gpus", lambda *_: None)
    monkeypatch.setattr(job, "read_and_stage", Blocks)
    monkeypatch.setattr(job, "connect", connect)
    (tmp_path / "job").mkdir()
    return run


def quarantined(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "job" / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.999])
def test_a_table_that_breaks_off_fails_the_job_before_the_collection_is_changed(
    index: Index, docs: Path, tmp_path: Path, limit: float
) -> None:
    (docs / "rows.csv").write_text(BROKEN)
    with pytest.raises(DataError) as caught:
        index(max_quarantined=limit)
    assert caught.value.where == f"{docs / 'rows.csv'}:4"
    assert "nobody knows how many documents" in caught.value.what
    assert "mend the file" in str(caught.value.remedy)
    assert "`max_quarantined: 1`" in str(caught.value.remedy)
    # It can still be looked up what it was.
    assert [(record["line"], list(record)) for record in quarantined(tmp_path)] == [
        (4, ["file", "line", "reason", "row"])
    ]


def test_who_accepts_whatever_is_lost_gets_the_rows_before_it(index: Index, docs: Path, tmp_path: Path) -> None:
    (docs / "rows.csv").write_text(BROKEN)
    with pytest.raises(StoreReachedError):
        index(max_quarantined=1)
    assert len(quarantined(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "content"), [("rows.parquet", b"PAR1 no"), ("rows.jsonl", b'{"text": "one"}\n{"text": "tw')]
)
def test_so_does_a_table_that_cannot_be_opened_or_was_cut_off(
    index: Index, docs: Path, name: str, content: bytes
) -> None:
    (docs / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*the table breaks off here"):
        index()


def test_of_several_the_first_is_named_and_the_others_counted(index: Index, docs: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        (docs / name).write_text(BROKEN)
    with pytest.raises(DataError, match=r"a\.csv:4: .*tables that break off: 3, listed in .*quarantine\.jsonl"):
        index()


def test_a_file_that_cannot_be_read_now_comes_first_as_it_may_be_whole(index: Index, docs: Path) -> None:
    (docs / "rows.csv").write_text(BROKEN)
    (docs / "0.txt").unlink()
    (docs / "0.txt").symlink_to("/proc/self/mem")  # reading it is an I/O error
    with pytest.raises(TandemError, match=r"0\.txt: can't be read"):
        index(max_quarantined=1)


def test_broken_rows_and_documents_count_as_one_each(index: Index, docs: Path, tmp_path: Path) -> None:
    (docs / "broken.txt").write_bytes(b"caf\xe9")
    (docs / "rows.csv").write_text("id,text\n1,one\n2\n3,three\n")
    with pytest.raises(StoreReachedError):
        index()
    assert len(quarantined(tmp_path)) == 2
    with pytest.raises(DataError, match="2 of 44 documents can't be used"):
        index(max_quarantined=0.04)
