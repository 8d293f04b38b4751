from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from tandem.errors import InputError
from tandem.orchestrator import packages
from tandem.orchestrator.packages import STALE_S, Packages

PARTS = [bytes([number]) * 1000 for number in range(100)]
HASHED = hashlib.sha256(b"".join(PARTS)).hexdigest()


async def parts() -> AsyncIterator[bytes]:
    for part in PARTS:
        yield part


def store(kept: Packages, hashed: str = HASHED) -> int:
    return anyio.run(kept.store, hashed, parts())


def test_a_package_is_kept_under_its_hash_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "PIECE_BYTES", 2500)
    kept = Packages(tmp_path / "packages")
    assert not kept.has(HASHED)
    assert store(kept) == 100_000
    assert kept.path(HASHED).read_bytes() == b"".join(PARTS)
    with pytest.raises(InputError, match="another SHA-256"):
        store(kept, "0" * 64)
    assert list(kept.folder.iterdir()) == [kept.path(HASHED)]


def test_other_requests_go_on_while_a_package_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    monkeypatch.setattr(os, "fsync", lambda _: threads.append(threading.current_thread()))
    store(Packages(tmp_path / "packages"))
    assert threads
    assert threading.current_thread() not in threads


def test_what_an_upload_left_that_broke_off_long_ago_goes_with_the_next_one(tmp_path: Path) -> None:
    old, young = tmp_path / "old.partial", tmp_path / "young.partial"
    for path, age_s in ((old, STALE_S + 60), (young, STALE_S - 60)):
        path.write_bytes(b"x")
        then = path.stat().st_mtime - age_s
        os.utime(path, (then, then))
    store(Packages(tmp_path))
    assert not old.exists()
    assert young.exists()
