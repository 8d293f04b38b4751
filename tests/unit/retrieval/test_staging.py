from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_embedder

from tandem.data.documents import Document
from tandem.data.sources import DataFile
from tandem.errors import DataError, UnreachableError
from tandem.retrieval.chunk_ids import unpack
from tandem.retrieval.indexing import InputFile
from tandem.retrieval.staging import Stage, Staged, document_tenant, read, staged_chunks
from tandem.specs.index import ChunkSpec


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


def staged(paths: list[Path], folder: Path, embedder: Path, tenant_field: str | None = None) -> Staged:
    rows = [row for path in paths for row in read({"file": pickle.dumps(InputFile(DataFile.local(path), path.name))})]
    stage = Stage(folder, embedder, ChunkSpec(), "", tenant_field)
    (packed,) = stage({name: [row[name] for row in rows] for name in ("file", "found")})["staged"]
    made: Staged = pickle.loads(packed)
    return made


def chunks(of: Staged, places: list[int]) -> list[dict[str, Any]]:
    row = {"path": str(of.path), "places": np.array(places, dtype=np.int64).tobytes()}
    return [json.loads(found["data"]) for found in staged_chunks(row)]


def test_chunks_are_found_again_by_their_places(tmp_path: Path, embedder: Path) -> None:
    # More than one batch of a staged file.
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"number {n}", "id": f"i{n}"}) + "\n" for n in range(2500)))
    made = staged([path], tmp_path, embedder)
    assert (made.documents, len(made.ids), made.faults, made.unread) == (2500, 2500, [], [])
    places = [0, 1023, 1024, 2047, 2499]
    found = chunks(made, places)
    assert [chunk["id"] for chunk in found] == list(unpack(made.ids[places]))
    assert [chunk["line"] for chunk in found] == [place + 1 for place in places]
    assert {chunk["modified_at"] for chunk in found} == {DataFile.local(path).modified_at}


def test_what_cannot_be_used_or_read_is_told_apart(tmp_path: Path, embedder: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "broken.txt").write_bytes(b"caf\xe9")
    deep = "[" * 500 + "]" * 500
    (tmp_path / "deep.jsonl").write_text(f'{{"text": "x", "more": {deep}}}\n')
    (tmp_path / "throttled.txt").symlink_to("/proc/self/mem")  # reading it is an I/O error
    made = staged([tmp_path / f for f in ("good.txt", "broken.txt", "deep.jsonl", "throttled.txt")], tmp_path, embedder)
    assert (made.documents, len(made.ids)) == (1, 1)
    broken, nested = made.faults
    assert "not UTF-8" in broken.reason
    assert "nested too deeply" in nested.reason
    (error,) = made.unread
    assert isinstance(error, UnreachableError)
    assert error.where == str(tmp_path / "throttled.txt")


def test_without_a_chunk_there_is_no_file(tmp_path: Path, embedder: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    assert not staged([tmp_path / "empty.txt"], tmp_path, embedder).path.exists()


def test_a_document_without_the_tenant_field_is_refused_and_not_shown_to_all() -> None:
    document = Document("i", "s", "t", "x", {"team": "red", "number": 7, "empty": " "})
    assert document_tenant(document, "team") == "red"
    assert document_tenant(document, "number") == "7"
    assert document_tenant(document, None) is None
    for field in ("owner", "empty"):
        with pytest.raises(DataError, match="no tenant"):
            document_tenant(document, field)
