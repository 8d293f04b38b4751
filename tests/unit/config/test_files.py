from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tandem.config.files import write_whole


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: seen.append((str(Path(f"/proc/self/fd/{number}").readlink()), path.exists()))
    )
    write_whole(path, "é")
    assert seen == [(f"{path}.partial", False), (str(tmp_path), True)]
    assert path.read_text(encoding="utf-8") == "é"
    write_whole(path, "soon another", durable=False)
    assert len(seen) == 2


def test_a_filesystem_without_that_call_for_folders_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse(number: int) -> None:
        if Path(f"/proc/self/fd/{number}").is_dir():
            raise OSError(code, "no")
        fsync(number)

    monkeypatch.setattr(os, "fsync", refuse)
    code = errno.EINVAL
    write_whole(tmp_path / "a", "x")
    code = errno.EIO
    with pytest.raises(OSError, match="no"):
        write_whole(tmp_path / "a", "x")
