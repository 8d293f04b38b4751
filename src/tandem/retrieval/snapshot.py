"""What an index job made: the artifact by which training, comparison and endpoint know how to search a collection."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from tandem.errors import ModelError
from tandem.retrieval.chunk_ids import unpack

if TYPE_CHECKING:
    from tandem.retrieval.chunk_ids import ChunkIds

logger = logging.getLogger(__name__)

FILE = "index.json"


@dataclass(frozen=True)
class IndexSnapshot:
    """A collection as one job left it.

    Args:
        id: SHA-256 (hex) over the chunks' ids, the embedder and the chunk settings: equal snapshots find the same.
        collection: The name under which it is searched.
        points: The collection for which that name stood when the job ended.
        embedder: The embedder's URI; a local one as an absolute path.
        embedder_sha256: Fingerprint of the embedder's files.
        batch_size: Texts in one forward pass.
        dimension: Of the vectors.
        sparse: Whether term weights were written.
        tenant_field: The metadata field that named the tenants, if any.
        chunk_tokens: Longest chunk.
        chunk_overlap: Overlap of neighbours.
        documents: How many there are.
        chunks: How many there are.
        distance: What the dense vectors are compared by: ``cosine``, or ``dot``, and then they have any length.
        dtype: What the vectors were computed in; ``auto``: float32 or bfloat16, what was measured to do or was cached.
        query_prompt: What the embedder puts before a question, its own or the spec's.
        passage_prompt: What it put before each chunk.
    """

    id: str
    collection: str
    points: str
    embedder: str
    embedder_sha256: str
    batch_size: int
    dimension: int
    sparse: bool
    tenant_field: str | None
    chunk_tokens: int
    chunk_overlap: int
    documents: int
    chunks: int
    # What artifacts of before there was a choice don't say.
    distance: str = "cosine"
    dtype: str = "auto"
    query_prompt: str = ""
    passage_prompt: str = ""


def snapshot_id(chunk_ids: ChunkIds, settings: str) -> str:
    """SHA-256 (hex) over the chunks and what they were made with.

    Args:
        chunk_ids: Of every chunk in the collection, sorted.
        settings: Embedder, chunk settings, sparse or not, as one text.
    """
    digest = hashlib.sha256(settings.encode())
    for chunk_id in unpack(chunk_ids):
        digest.update(b"\0" + chunk_id.encode())
    return digest.hexdigest()


def write_snapshot(folder: Path, snapshot: IndexSnapshot, *, name: str, id: str, figures: dict[str, Any]) -> None:
    """Write the artifact: its file, then its manifest.

    Args:
        folder: The artifact's folder.
        snapshot: What was made.
        name: The job's name.
        id: The job's id.
        figures: What else the job counted; goes into the manifest.
    """
    (folder / FILE).write_text(json.dumps(asdict(snapshot), indent=2) + "\n")
    write_manifest(folder, name=name, id=id, type="index", meta={**figures, "snapshot": asdict(snapshot)})


def find_snapshot(storage: Path, collection: str, points: str | None = None) -> IndexSnapshot | None:
    """The newest complete index artifact of a collection, whichever job made it; what can't be read is passed over.

    Args:
        storage: The cluster's storage folder.
        collection: The name under which it is searched.
        points: Only of the collection for which the name stands now.
    """
    newest = _newest(storage, collection, points)
    return newest[1] if newest else None


def made_by(storage: Path, collection: str, points: str) -> str | None:
    """The name of the job that made what `find_snapshot` finds with the same arguments."""
    newest = _newest(storage, collection, points)
    return newest[0].name if newest else None


def _newest(storage: Path, collection: str, points: str | None = None) -> tuple[Manifest, IndexSnapshot] | None:
    known = {field.name for field in fields(IndexSnapshot)}
    needed = {field.name for field in fields(IndexSnapshot) if field.default is MISSING}
    newest: tuple[Manifest, IndexSnapshot] | None = None
    for path in (storage / "artifacts").glob(f"*/*/{FILE}"):
        if not (path.parent / MANIFEST).is_file():
            continue
        try:
            manifest = read_manifest(path.parent)
        except ModelError as error:
            # Most likely of another index, which has nothing to do with this one.
            logger.warning("passed over: %s", error)
            continue
        data = manifest.meta.get("snapshot", {})
        if manifest.type != "index" or data.get("collection") != collection or not needed <= set(data):
            continue
        if points is not None and data["points"] != points:
            continue
        if newest is None or manifest.created_at > newest[0].created_at:
            newest = (manifest, IndexSnapshot(**{key: data[key] for key in known & set(data)}))
    return newest
