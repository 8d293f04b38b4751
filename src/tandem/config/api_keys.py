"""API keys as files hold them: hashed, with whatever each key's holder is or may."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from tandem.errors import InputError

logger = logging.getLogger(__name__)

KEY_BYTES = 32
Holder = TypeVar("Holder")


def new_key() -> str:
    """A key that nobody guesses."""
    return f"tandem-{secrets.token_urlsafe(KEY_BYTES)}"


def digest(key: str) -> str:
    """SHA-256 of a key, hex: all that is kept of it."""
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(authorization: str | None) -> str:
    """The key of an ``Authorization`` header; empty where there is none."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class KeyFile(Generic[Holder]):
    """The hashed keys of a file ``{sha256 of key, hex: entry}``; a changed file counts from the next request on.

    Args:
        path: The file.
        read: From a hash and its entry to the holder; raises `ValidationError` where the entry isn't one.
        form: What the file must be, and in a second sentence what may stand in it.
    """

    def __init__(self, path: Path, read: Callable[[str, Any], Holder], form: tuple[str, str]) -> None:
        self.path = path
        self._read = read
        self._form = form
        self._seen: tuple[int, ...] = ()
        self._holders: dict[str, Holder] = {}
        self._problem = ""
        self.reload()

    def reload(self) -> None:
        """Read the file again if it was changed.

        Raises:
            InputError: It isn't there, or isn't what it should be.
        """
        try:
            found = self.path.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen == self._seen:
                return
            data = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"the API keys can't be read: {error}", where=str(self.path), remedy="run `tandem up`, or set api_keys"
            ) from None
        try:
            holders = {hashed.lower(): self._read(hashed.lower(), entry) for hashed, entry in data.items()}
        except (AttributeError, ValidationError):
            raise InputError(self._form[0], where=str(self.path), remedy=self._form[1]) from None
        self._holders = holders
        self._seen = seen

    def holder(self, key: str) -> Holder | None:
        """Who holds a key; None for one that isn't known."""
        self._look_again()
        presented = digest(key)
        found: Holder | None = None
        # Every entry is compared, in constant time each: how long it takes says nothing about the keys.
        for hashed, holder in self._holders.items():
            if hmac.compare_digest(hashed, presented):
                found = holder
        return found

    def holders(self) -> Mapping[str, Holder]:
        """Everybody, by hash."""
        self._look_again()
        return self._holders

    def _look_again(self) -> None:
        # A file that is half-way through an editor must not lock everybody out, nor let anybody in.
        try:
            self.reload()
            self._problem = ""
        except InputError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("%s; the keys that were read before go on counting", error)
