"""API keys: who calls, and so whose documents may be searched."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tandem.errors import InputError
from tandem.serving.api_errors import unauthorized

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        tenant: Only this tenant's passages are searched; None: no restriction.
        key: SHA-256 of the key, hex.
        requests_per_minute: This key's own limit; None for the spec's.
        tokens_per_minute: This key's own limit; None for the spec's.
    """

    tenant: str | None
    key: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tenant: str | None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


class KeyRing:
    """The hashed keys of a file ``{sha256 of key, hex: tenant}``; a changed file counts from the next request on.

    The tenant ``*`` or null stands for no restriction. In place of a tenant there may be an object with `tenant`,
    `requests_per_minute` and `tokens_per_minute`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed_ns = -1
        self._callers: dict[str, Caller] = {}
        self._problem = ""
        self.reload()

    def reload(self) -> None:
        """Read the file again if it was changed.

        Raises:
            InputError: It isn't there, or isn't what it should be.
        """
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns == self._changed_ns:
                return
            data = json.loads(self._path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"the API keys can't be read: {error}", where=str(self._path), remedy="run `tandem up`, or set api_keys"
            ) from None
        try:
            callers = [_caller(digest.lower(), entry) for digest, entry in data.items()]
        except (AttributeError, ValidationError):
            raise InputError(
                "not an object of {sha256 of key: tenant}",
                where=str(self._path),
                remedy="in place of a tenant: an object of tenant, requests_per_minute, tokens_per_minute",
            ) from None
        self._callers = {caller.key: caller for caller in callers}
        self._changed_ns = changed_ns

    def caller(self, authorization: str | None) -> Caller:
        """Who holds the key of an ``Authorization`` header.

        Raises:
            ApiError: 401.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise unauthorized("No API key. Send `Authorization: Bearer KEY`.")
        self._look_again()
        presented = hashlib.sha256(key.strip().encode()).hexdigest()
        found: Caller | None = None
        # Every entry is compared, in constant time each: how long it takes says nothing about the keys.
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, presented):
                found = caller
        if found is None:
            raise unauthorized("This API key isn't known here.")
        return found

    def _look_again(self) -> None:
        # A file that is half-way through an editor must not lock everybody out, nor let anybody in.
        try:
            self.reload()
            self._problem = ""
        except InputError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("%s; the keys that were read before go on counting", error)


def _caller(digest: str, value: Any) -> Caller:
    entry = _Entry.model_validate(value if isinstance(value, dict) else {"tenant": value})
    tenant = None if entry.tenant == "*" else entry.tenant
    return Caller(tenant, digest, entry.requests_per_minute, entry.tokens_per_minute)
