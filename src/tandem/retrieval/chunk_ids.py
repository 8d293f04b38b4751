"""Chunk ids by the million: 16 bytes each in a sorted array, where text in a set would take two hundred."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tandem.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    ChunkIds = NDArray[np.bytes_]

ID_BYTES = 16
DTYPE = f"S{ID_BYTES}"


def pack(ids: Iterable[str]) -> ChunkIds:
    """UUIDs as text to (ids,) S16, in the order given.

    Raises:
        StoreError: One is no UUID, so it isn't of a chunk.
    """
    import numpy as np

    def packed() -> Iterator[bytes]:
        for id in ids:
            try:
                yield uuid.UUID(id).bytes
            except ValueError:
                raise StoreError(
                    f"{id!r} is not the id of a chunk",
                    remedy="something else writes to the collection of this index: give it another",
                ) from None

    return np.fromiter(packed(), dtype=DTYPE)


def unpack(ids: ChunkIds) -> Iterator[str]:
    """Back to text, in the order given."""
    for id in ids:
        # NumPy drops zero bytes at the end.
        yield str(uuid.UUID(bytes=bytes(id).ljust(ID_BYTES, b"\0")))


def none() -> ChunkIds:
    """No ids."""
    return pack(())


def union(blocks: Iterable[ChunkIds]) -> ChunkIds:
    """All ids of the blocks, sorted, each once."""
    import numpy as np

    parts = list(blocks)
    return np.unique(np.concatenate(parts)) if parts else none()


def within(ids: ChunkIds, of: ChunkIds) -> NDArray[np.bool_]:
    """(ids,) bool: which of them occur in `of`, which is sorted."""
    import numpy as np

    if not len(of):
        return np.zeros(len(ids), dtype=bool)
    at = np.searchsorted(of, ids)
    at[at == len(of)] = 0
    found: NDArray[np.bool_] = of[at] == ids
    return found
