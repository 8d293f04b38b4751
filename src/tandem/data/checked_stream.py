"""A file's bytes, where "can't be read now" is told apart from "isn't what it should be"."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from tandem.errors import InputError, UnreachableError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# What comes again however often it is tried.
_LASTING = (PermissionError, IsADirectoryError, NotADirectoryError)


class CheckedStream(io.RawIOBase):
    """A stream whose failures to read aren't OSErrors, which parsers raise for broken content too.

    Args:
        raw: A binary stream with `readinto`; this one's `close` closes it.
        name: The file, for the error.
    """

    def __init__(self, raw: Any, name: str) -> None:
        super().__init__()
        self._raw = raw
        self._name = name

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """As the stream below."""
        return bool(self._raw.seekable())

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer; how many bytes there were.

        Raises:
            InputError: It may not be read.
            UnreachableError: It can't be read now.
        """
        try:
            return int(self._raw.readinto(buffer) or 0)
        except OSError as error:
            raise reading_failed(self._name, error) from error

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place; returns it."""
        return int(self._raw.seek(offset, whence))

    def tell(self) -> int:
        """The place."""
        return int(self._raw.tell())

    def close(self) -> None:
        """Close the stream below too."""
        if not self.closed:
            self._raw.close()
        super().close()


def reading_failed(name: str, error: OSError) -> InputError | UnreachableError:
    """What a failure to read means: it may pass and the job be tried again, or it lasts and a person must act."""
    why = f"can't be read: {error.strerror or str(error).partition(chr(10))[0]}"
    if isinstance(error, _LASTING):
        return InputError(why, where=name, remedy="let the cluster's processes read it, or leave it out of the sources")
    return UnreachableError(why, where=name, remedy="what is indexed of it stays; run the job again when it can be")
