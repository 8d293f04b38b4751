"""API keys: who calls, and so whose documents may be searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tandem.config.api_keys import KeyFile, bearer
from tandem.serving.api_errors import unauthorized

FORM = (
    "not an object of {sha256 of key: tenant}",
    "in place of a tenant: an object of tenant, requests_per_minute, tokens_per_minute",
)


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
        self._keys = KeyFile(path, _caller, FORM)

    def reload(self) -> None:
        """Read the file again if it was changed.

        Raises:
            InputError: It isn't there, or isn't what it should be.
        """
        self._keys.reload()

    def caller(self, authorization: str | None) -> Caller:
        """Who holds the key of an ``Authorization`` header.

        Raises:
            ApiError: 401.
        """
        key = bearer(authorization)
        if not key:
            raise unauthorized("No API key. Send `Authorization: Bearer KEY`.")
        found = self._keys.holder(key)
        if found is None:
            raise unauthorized("This API key isn't known here.")
        return found


def _caller(hashed: str, value: Any) -> Caller:
    entry = _Entry.model_validate(value if isinstance(value, dict) else {"tenant": value})
    tenant = None if entry.tenant == "*" else entry.tenant
    return Caller(tenant, hashed, entry.requests_per_minute, entry.tokens_per_minute)
