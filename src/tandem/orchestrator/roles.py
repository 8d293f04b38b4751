"""Who may call the server, and what: the hashed keys of ``STORAGE/server-keys.json``."""

from __future__ import annotations

import json
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

    Raises:
        InputError: The file isn't there, or isn't what it should be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = KeyFile(path, _holder, FORM)
        self._changing = threading.Lock()

    def holder(self, key: str) -> KeyHolder | None:
        """Who holds a key; None for one that isn't known."""
        return self._keys.holder(key)

    def holders(self) -> list[KeyHolder]:
        """Everybody, in the order in which their keys were made."""
        return list(self._keys.holders().values())

    def add(self, name: str, role: Role) -> str:
        """Make a key; it is told once, and only its hash is kept.

        Raises:
            ConflictError: There is a key of that name.
        """
        with self._changing:
            if any(holder.name == name for holder in self.holders()):
                raise ConflictError(f"there is a key named {name!r}", remedy=f"`tandem keys revoke {name}` first")
            key = new_key()
            self._write({**self._keys.holders(), digest(key): KeyHolder(name, role, _now())})
        return key

    def revoke(self, name: str) -> KeyHolder:
        """Take a key back: it is refused from the next request on.

        Raises:
            NotFoundError: There is no key of that name.
            ConflictError: It is the last one of an admin.
        """
        with self._changing:
            kept = {hashed: holder for hashed, holder in self._keys.holders().items() if holder.name != name}
            gone = [holder for holder in self._keys.holders().values() if holder.name == name]
            if not gone:
                raise NotFoundError(f"no key is named {name!r}", remedy="`tandem keys list` lists them")
            if not any(holder.role is Role.ADMIN for holder in kept.values()):
                raise ConflictError(
                    f"{name!r} is the last admin's key", remedy="make another one first: `tandem keys add NAME`"
                )
            self._write(kept)
        return gone[0]

    def _write(self, holders: Mapping[str, KeyHolder]) -> None:
        write_keys(self._path, holders)
        self._keys.reload()


def write_keys(path: Path, holders: Mapping[str, KeyHolder]) -> None:
    """Write the file in one step, for its owner alone."""
    data = {
        hashed: {"name": each.name, "role": str(each.role), "created_at": each.created_at}
        for hashed, each in holders.items()
    }
    write_whole(path, json.dumps(data, indent=2) + "\n", private=True)


def make_server_keys(path: Path, key: str, name: str) -> None:
    """Have a key in the file, as an admin's; whatever it says of keys that it has stays."""
    holders = dict(KeyFile(path, _holder, FORM).holders()) if path.exists() else {}
    if digest(key) in holders:
        return
    taken = {holder.name for holder in holders.values()}
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    write_keys(path, {**holders, digest(key): KeyHolder(free, Role.ADMIN, _now())})


def _holder(_: str, value: Any) -> KeyHolder:
    entry = _Entry.model_validate(value)
    return KeyHolder(entry.name, entry.role, entry.created_at)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
