"""The first half of an index job, inside Ray Data: files to documents, documents to chunks in files of the job's own.

Chunks are needed twice: to see what changed, and to embed what is new. In between they lie in those files, not in
memory: the driver keeps their ids. Memory is bounded by a block of documents, or by one document where that is larger.
"""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.data.documents import Document, scan_file
from tandem.data.quarantine import Fault
from tandem.errors import DataError, InputError, TandemError, UnreachableError
from tandem.retrieval.chunk_ids import none, pack
from tandem.retrieval.chunking import FastTokenizer, chunk_document
from tandem.retrieval.indexing import InputFile
from tandem.specs.index import ChunkSpec

if TYPE_CHECKING:
    import pyarrow.parquet

    from tandem.retrieval.chunk_ids import ChunkIds

_ROWS = 1024  # of a staged file, in memory at once


def read(row: dict[str, bytes]) -> Iterator[dict[str, bytes | str]]:
    """Ray Data stage: a file to its documents, faults, and the error by which it couldn't be read.

    Args:
        row: `file`: an `InputFile`, pickled.

    Yields:
        `found`: Document, Fault or TandemError, pickled; `file`: the file's name.
    """
    asked: InputFile = pickle.loads(row["file"])
    try:
        for found in scan_file(asked.file, asked.source):
            yield {"file": asked.file.name, "found": pickle.dumps(found)}
    except (InputError, UnreachableError) as error:
        yield {"file": asked.file.name, "found": pickle.dumps(error)}


@dataclass
class Staged:
    """What became of a block of documents.

    Args:
        path: The file with their chunks, in the order of `ids`: columns `id` and `data` (the chunk, as JSON).
        ids: The chunks'.
        documents: How many they are.
        faults: What couldn't be used.
        unread: Why files couldn't be read.
    """

    path: Path
    ids: ChunkIds = field(default_factory=none)
    documents: int = 0
    faults: list[Fault] = field(default_factory=list)
    unread: list[TandemError] = field(default_factory=list)


class Stage:
    """Ray Data stage: a block of documents to chunks in a file.

    Args:
        folder: Where the files go; every machine of the cluster sees it.
        embedder: The embedder's folder, whose tokenizer counts.
        chunk: How to cut.
        settings: See `identity_settings`.
        tenant_field: The metadata field that names a document's tenant, if there is one.
    """

    def __init__(self, folder: Path, embedder: Path, chunk: ChunkSpec, settings: str, tenant_field: str | None) -> None:
        self._folder = folder
        self._embedder = embedder
        self._chunk = chunk
        self._settings = settings
        self._tenant_field = tenant_field

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """`staged`: one `Staged`, pickled."""
        staged = Staged(self._folder / f"{uuid.uuid4().hex}.parquet")
        ids: list[str] = []
        with _ChunkFile(staged.path) as file:
            for name, packed in zip(batch["file"], batch["found"], strict=True):
                found: Document | Fault | TandemError = pickle.loads(packed)
                if isinstance(found, Document):
                    ids += self._add(found, str(name), staged, file)
                elif isinstance(found, Fault):
                    staged.faults.append(found)
                else:
                    staged.unread.append(found)
        staged.ids = pack(ids)
        return {"staged": [pickle.dumps(staged)]}

    def _add(self, document: Document, name: str, staged: Staged, file: _ChunkFile) -> list[str]:
        try:
            tenant = document_tenant(document, self._tenant_field)
            tokenizer = _tokenizer(self._embedder)
            chunks = chunk_document(document, self._chunk, tokenizer, salt=self._settings, tenant=tenant)
            rows = [(chunk.id, json.dumps(vars(chunk), default=str)) for chunk in chunks]
        except DataError as error:
            staged.faults.append(Fault(name, document.line, f"{document.source}: {error.what}"))
        except RecursionError:
            staged.faults.append(Fault(name, document.line, f"{document.source}: nested too deeply"))
        else:
            staged.documents += 1
            file.add(rows)
            return [id for id, _ in rows]
        return []


class _ChunkFile:
    """A Parquet file that is written while it grows; there is none without a row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[tuple[str, str]] = []
        self._writer: pyarrow.parquet.ParquetWriter | None = None

    def __enter__(self) -> _ChunkFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, rows: list[tuple[str, str]]) -> None:
        """Append (id, data)."""
        self._rows += rows
        if len(self._rows) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        if not self._rows:
            return
        ids, data = zip(*self._rows, strict=True)
        table = pa.table({"id": pa.array(ids, pa.string()), "data": pa.array(data, pa.large_string())})
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._rows = []


def staged_chunks(row: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Ray Data stage: a staged file to the chunks that are wanted of it.

    Args:
        row: `path`, and `places`: the rows wanted, rising, int64 as bytes.

    Yields:
        `data`: a chunk, as JSON.
    """
    import numpy as np
    from pyarrow import parquet

    places = np.frombuffer(row["places"], dtype=np.int64)
    begin = 0
    with parquet.ParquetFile(row["path"]) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=["data"]):
            low, high = np.searchsorted(places, (begin, begin + batch.num_rows))
            for data in batch.column("data").take(places[low:high] - begin).to_pylist():
                yield {"data": data}
            begin += batch.num_rows


def document_tenant(document: Document, field: str | None) -> str | None:
    """To whom a document is shown; None, where no field names tenants, for everyone.

    Raises:
        DataError: The field is missing: without a tenant the document would be shown to all of them.
    """
    if field is None:
        return None
    tenant = document.metadata.get(field)
    if tenant is None or not str(tenant).strip():
        raise DataError(f"no tenant: its `{field}` is missing or empty")
    return str(tenant)


@lru_cache(maxsize=2)
def _tokenizer(embedder: Path) -> FastTokenizer:
    return FastTokenizer(embedder)
