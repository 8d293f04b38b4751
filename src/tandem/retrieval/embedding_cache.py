"""Vectors that were computed once, in Parquet files that any job may read and any may delete.

They are found by the embedder, what was computed in, and what was embedded: the text and the prompt before it.

A text that is indexed again, under other metadata, in another collection or after the collection was lost, costs no
forward pass.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tandem.retrieval.embedding import DTYPES, Dtype

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FOLDER = "embeddings"
KEY_BYTES = 16  # of the text's SHA-256: two of a billion texts collide with a chance of 1e-21
ROW_GROUP = 1024
GROUPS_IN_MEMORY = 32  # 48 MB at 384 dimensions
COMPACT_ABOVE = 64  # files


class EmbeddingCache:
    """The vectors of one embedder; in memory are the keys (16 bytes each) and a few row groups.

    Args:
        root: The cluster's storage folder.
        embedder_sha256: The embedder's fingerprint.
        dtype: What they were computed in.
        unit: Whether they are scaled to length 1.
        prompt: What the embedder puts before each text.
    """

    def __init__(self, root: Path, embedder_sha256: str, dtype: Dtype, *, unit: bool = True, prompt: str = "") -> None:
        import numpy as np

        self._folder = root / FOLDER / f"{embedder_sha256[:32]}{'' if unit else '-raw'}-{dtype}"
        self._prompt = prompt
        self._groups: OrderedDict[tuple[int, int], NDArray[np.float32]] = OrderedDict()
        self._files: list[Path] = []
        keys, places = [], []
        for path in sorted(self._folder.glob("*.parquet")):
            for group, found in enumerate(_keys(path)):
                keys.append(found)
                rows = np.arange(len(found), dtype=np.int32)
                places.append(np.stack([np.full_like(rows, len(self._files)), np.full_like(rows, group), rows], axis=1))
            self._files.append(path)
        everything = np.concatenate(keys) if keys else np.empty(0, dtype=f"S{KEY_BYTES}")
        order = np.argsort(everything, kind="stable")
        self._keys = everything[order]
        self._places = np.concatenate(places)[order] if places else np.empty((0, 3), dtype=np.int32)

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self._folder)!r}, vectors={len(self._keys)})"

    def get(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of those texts that were here when it was opened: float32, (dimension,)."""
        import numpy as np

        if not len(self._keys) or not texts:
            return {}
        wanted = np.array([key(text, self._prompt) for text in texts], dtype=f"S{KEY_BYTES}")
        at = np.searchsorted(self._keys, wanted)
        at[at == len(self._keys)] = 0
        found = {}
        for text, place, same in zip(texts, at, self._keys[at] == wanted, strict=True):
            vector = self._vector(*self._places[place]) if same else None
            if vector is not None:
                found[text] = vector
        return found

    def put(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Write vectors, in a file of their own that appears whole or not at all.

        Args:
            texts: Any.
            vectors: float32, (texts, dimension).
        """
        if texts:
            _write(self._folder, iter([([key(text, self._prompt) for text in texts], vectors)]))

    def compact(self) -> None:
        """Join many small files into one, each key once; what another job reads meanwhile it misses, and embeds."""
        if len(self._files) <= COMPACT_ABOVE:
            return
        _write(self._folder, self._distinct())
        for path in self._files:
            path.unlink(missing_ok=True)

    def _distinct(self) -> Iterator[tuple[list[bytes], NDArray[np.float32]]]:
        """In row groups, read as they lie in the files, one at a time."""
        import numpy as np

        first = np.ones(len(self._keys), dtype=bool)
        first[1:] = self._keys[1:] != self._keys[:-1]
        keys, places = self._keys[first], self._places[first]
        order = np.lexsort(places.T[::-1])
        keys, places = keys[order], places[order]
        begins = 1 + np.flatnonzero(np.diff(places[:, :2], axis=0).any(axis=1))
        waiting: list[bytes] = []
        parts: list[NDArray[np.float32]] = []
        for names, rows in zip(np.split(keys, begins), np.split(places, begins), strict=True):
            vectors = _vectors(self._files[rows[0, 0]], int(rows[0, 1])) if len(rows) else None
            if vectors is None:
                continue
            waiting += [_padded(name) for name in names]
            parts.append(vectors[rows[:, 2]])
            while len(waiting) >= ROW_GROUP:
                whole = np.concatenate(parts)
                yield waiting[:ROW_GROUP], whole[:ROW_GROUP]
                waiting, parts = waiting[ROW_GROUP:], [whole[ROW_GROUP:]]
        if waiting:
            yield waiting, np.concatenate(parts)

    def _vector(self, file: int, group: int, row: int) -> NDArray[np.float32] | None:
        place = (int(file), int(group))
        if place not in self._groups:
            vectors = _vectors(self._files[file], int(group))
            if vectors is None:
                return None
            self._groups[place] = vectors
            if len(self._groups) > GROUPS_IN_MEMORY:
                self._groups.popitem(last=False)
        self._groups.move_to_end(place)
        vector: NDArray[np.float32] = self._groups[place][row]
        return vector


def open_caches(
    root: Path, embedder_sha256: str, dtype: Dtype | Literal["auto"], *, unit: bool = True, prompt: str = ""
) -> dict[Dtype, EmbeddingCache]:
    """The caches whose vectors will do, best first.

    For `auto` it is both, whatever would be chosen today: only a model that is loaded could tell, and where all is
    cached none needs to be. What float32 gave comes first: it is as good as any.

    Args:
        root: See `EmbeddingCache`, and so for the others.
        embedder_sha256: The embedder's fingerprint.
        dtype: What vectors may have been computed in.
        unit: Whether they are scaled to length 1.
        prompt: What the embedder puts before each text.
    """
    dtypes = DTYPES if dtype == "auto" else (dtype,)
    return {each: EmbeddingCache(root, embedder_sha256, each, unit=unit, prompt=prompt) for each in dtypes}


def key(text: str, prompt: str = "") -> bytes:
    """What a text is found by."""
    # The place where a prompt ends matters to a model that doesn't pool it.
    embedded = f"{prompt}\0{text}" if prompt else text
    return hashlib.sha256(embedded.encode()).digest()[:KEY_BYTES]


def _padded(name: bytes) -> bytes:
    # NumPy drops zero bytes at the end.
    return name.ljust(KEY_BYTES, b"\0")


def _keys(path: Path) -> list[Any]:
    """The keys of each row group; none at all if the file can't be read."""
    import numpy as np
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(path)
        groups = [file.read_row_group(group, columns=["key"]).column("key") for group in range(file.num_row_groups)]
    except (OSError, ArrowException) as error:
        _unreadable(path, error)
        return []
    return [np.array(group.to_pylist(), dtype=f"S{KEY_BYTES}") for group in groups]


def _vectors(path: Path, group: int) -> NDArray[np.float32] | None:
    from pyarrow import ArrowException, parquet

    try:
        column = parquet.ParquetFile(path).read_row_group(group, columns=["vector"]).column("vector").combine_chunks()
    except (OSError, ArrowException) as error:
        _unreadable(path, error)
        return None
    values: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(column), -1)
    return values


def _unreadable(path: Path, error: Exception) -> None:
    logger.warning("cached embeddings in %s can't be read, and are computed again: %s", path, error)


def _write(folder: Path, parts: Iterator[tuple[list[bytes], NDArray[np.float32]]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{uuid.uuid4().hex}.parquet"
    unfinished = target.with_suffix(".unfinished")
    writer = None
    try:
        for keys, vectors in parts:
            flat = pa.array(vectors.reshape(-1), type=pa.float32())
            table = pa.table(
                {
                    "key": pa.array(keys, type=pa.binary(KEY_BYTES)),
                    "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
                }
            )
            if writer is None:
                writer = parquet.ParquetWriter(unfinished, table.schema, compression="zstd", use_dictionary=False)
            writer.write_table(table, row_group_size=ROW_GROUP)
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        unfinished.replace(target)
