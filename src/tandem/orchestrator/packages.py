"""Working directories that jobs bring along, zipped, under ``STORAGE/packages``.

Ray would keep them in the memory of its head, and lose them with it. From the storage folder every node reads them,
and an attempt after the loss of the head finds them again.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from tandem.errors import InputError

# What Ray itself takes of a working directory: ray._private.ray_constants.GRPC_CPP_MAX_MESSAGE_SIZE.
MAX_PACKAGE_BYTES = 512 * 2**20
PIECE_BYTES = 2**20
# An upload of which nothing has come for so long is none any more.
STALE_S = 3600.0
_HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Packages:
    """The folder of a server's packages; each is named after its content's SHA-256."""

    folder: Path

    def path(self, hashed: str) -> Path:
        """Where a package lies, if it is there."""
        return self.folder / f"{hashed}.zip"

    def has(self, hashed: str) -> bool:
        """Whether a package is there, whole."""
        return _HEX.fullmatch(hashed) is not None and self.path(hashed).is_file()

    def uri(self, hashed: str) -> str:
        """What Ray's runtime environment calls it."""
        return self.path(hashed).as_uri()

    async def store(self, hashed: str, parts: AsyncIterator[bytes]) -> int:
        """Keep a package, and have what an upload left that broke off long ago out of the way.

        It is hashed and written in threads: a large one on a slow disk would hold up all other requests.

        Args:
            hashed: SHA-256 of its content, hex.
            parts: The content.

        Returns:
            Its length in bytes.

        Raises:
            InputError: The content has another hash: nothing is kept.
        """
        self.folder.mkdir(exist_ok=True)
        await to_thread.run_sync(self._sweep)
        partial = self.folder / f"{uuid.uuid4().hex}.partial"
        found = hashlib.sha256()
        try:
            with partial.open("wb") as file:

                def add(piece: bytes) -> None:
                    found.update(piece)
                    file.write(piece)
                    file.flush()

                async for piece in _pieces(parts):
                    await to_thread.run_sync(add, piece)
                length = file.tell()
                await to_thread.run_sync(os.fsync, file.fileno())
            if found.hexdigest() != hashed:
                raise InputError("the package has another SHA-256 than its name", where=hashed, remedy="send it again")
            partial.replace(self.path(hashed))
        finally:
            partial.unlink(missing_ok=True)
        return length

    def _sweep(self) -> None:
        for path in self.folder.glob("*.partial"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()


async def _pieces(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same in pieces that are worth a thread's time."""
    piece = bytearray()
    async for part in parts:
        piece += part
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)
