"""Working directories that jobs bring along, zipped, under ``STORAGE/packages``.

Ray would keep them in the memory of its head, and lose them with it. From the storage folder every node reads them,
and an attempt after the loss of the head finds them again.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tandem.errors import InputError

# What Ray itself takes of a working directory: ray._private.ray_constants.GRPC_CPP_MAX_MESSAGE_SIZE.
MAX_PACKAGE_BYTES = 512 * 2**20
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
        """Keep a package.

        Args:
            hashed: SHA-256 of its content, hex.
            parts: The content.

        Returns:
            Its length in bytes.

        Raises:
            InputError: The content has another hash: nothing is kept.
        """
        self.folder.mkdir(exist_ok=True)
        partial = self.folder / f"{uuid.uuid4().hex}.partial"
        found = hashlib.sha256()
        try:
            with partial.open("wb") as file:
                async for part in parts:
                    found.update(part)
                    file.write(part)
                length = file.tell()
                file.flush()
                os.fsync(file.fileno())
            if found.hexdigest() != hashed:
                raise InputError("the package has another SHA-256 than its name", where=hashed, remedy="send it again")
            partial.replace(self.path(hashed))
        finally:
            partial.unlink(missing_ok=True)
        return length
