"""Who may call the server, and what: the hashed keys of ``STORAGE/server-keys.json``."""

from __future__ import annotations

import getpass
import hmac
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tandem.config.api_keys import KeyFile, digest, new_key
from tandem.config.files import write_whole
from tandem.errors import ConflictError, NotFoundError

SERVER_KEYS = "server-keys.json"
FORM = (
    "not an object of {sha256 of key: {name, role, created_at}}",
    "roles: viewer, submitter, admin; `tandem keys` writes it",
)
KeyName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$",
        description="1-64 of letters, digits and . _ @ -, as in a user's name or address",
    ),
]


class Role(StrEnum):
    """What a key's holder may do; each may do what those before it may."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        """Whether it may do what another may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class KeyHolder:
    """Whom a key was made for.

    Attributes:
        name: Stands as `user` with the jobs that were submitted with this key.
        role: What it allows.
        created_at: ISO 8601, UTC.
    """

    name: str
    role: Role
    created_at: str


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: KeyName
    role: Role
    created_at: str


class ServerKeys:
    """The keys of one server; several threads may use it, and the file may be changed beside it.

    Args:
        path: Of the keys that were made for others; it is made if it isn't there.
        key: The cluster's own, an admin's: whoever may read the storage folder has it, so no file of hashes says so.
        owner: Whose that is.

    Raises:
        InputError: The file isn't what it should be.
    """

    def __init__(self, path: Path, key: str, owner: str) -> None:
        self._path = path
        self._own = digest(key)
        self._owner = KeyHolder(owner, Role.ADMIN, "")
        if not path.exists():
            self._write_file({})
        self._keys = KeyFile(path, _holder, FORM)
        self._changing = threading.Lock()

    def holder(self, key: str) -> KeyHolder | None:
        """Who holds a key; None for one that isn't known."""
        other = self._keys.holder(key)
        return self._owner if hmac.compare_digest(digest(key), self._own) else other

    def holders(self) -> list[KeyHolder]:
        """Everybody, in the order in which their keys were made."""
        return [self._owner, *self._keys.holders().values()]

    def add(self, name: str, role: Role) -> tuple[str, KeyHolder]:
        """Make a key; it is told once, and only its hash is kept.

        Raises:
            ConflictError: There is a key of that name.
        """
        with self._changing:
            if any(holder.name == name for holder in self.holders()):
                raise ConflictError(f"there is a key named {name!r}", remedy=f"`tandem keys revoke {name}` first")
            key, made = new_key(), KeyHolder(name, role, _now())
            self._write({**self._keys.holders(), digest(key): made})
        return key, made

    def revoke(self, name: str) -> KeyHolder:
        """Take a key back: it is refused from the next request on.

        Raises:
            NotFoundError: There is no key of that name.
            ConflictError: It is the cluster's own.
        """
        with self._changing:
            if name == self._owner.name:
                raise ConflictError(
                    f"{name!r} has the cluster's own key",
                    remedy="write another one to `api-key` in the storage folder, and start the server again",
                )
            kept = {hashed: holder for hashed, holder in self._keys.holders().items() if holder.name != name}
            gone = [holder for holder in self._keys.holders().values() if holder.name == name]
            if not gone:
                raise NotFoundError(f"no key is named {name!r}", remedy="`tandem keys list` lists them")
            self._write(kept)
        return gone[0]

    def _write(self, holders: Mapping[str, KeyHolder]) -> None:
        self._write_file(holders)
        self._keys.reload()

    def _write_file(self, holders: Mapping[str, KeyHolder]) -> None:
        data = {
            hashed: {"name": each.name, "role": str(each.role), "created_at": each.created_at}
            for hashed, each in holders.items()
        }
        write_whole(self._path, json.dumps(data, indent=2) + "\n", private=True)


def account() -> str:
    """The name of whoever runs this, as a key may be named."""
    try:
        name = re.sub(r"[^A-Za-z0-9._@-]", "-", getpass.getuser())[:60]
    except (KeyError, OSError):
        # In a container the account may have no name.
        name = ""
    return name if name[:1].isalnum() else "admin"


def _holder(_: str, value: Any) -> KeyHolder:
    entry = _Entry.model_validate(value)
    return KeyHolder(entry.name, entry.role, entry.created_at)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
