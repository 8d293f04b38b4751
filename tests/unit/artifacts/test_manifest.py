"""An artifact exists when its manifest does, and not before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandem.artifacts.manifest import latest, read_manifest, write_manifest
from tandem.errors import ModelError, NotFoundError


def make(storage: Path, name: str, id: str) -> Path:
    folder = storage / "artifacts" / name / id
    folder.mkdir(parents=True)
    (folder / "weights.txt").write_text(id)
    return folder


def test_half_written_artifact_is_none(tmp_path: Path) -> None:
    half = make(tmp_path, "a", "a-1")
    with pytest.raises(ModelError, match="not a complete artifact"):
        read_manifest(half)
    with pytest.raises(NotFoundError, match="no artifact artifact:a"):
        latest(tmp_path, "a")


def test_latest_by_time_or_by_id(tmp_path: Path) -> None:
    first, second = make(tmp_path, "a", "a-9"), make(tmp_path, "a", "a-1")
    write_manifest(first, name="a", id="a-9", type="adapter", meta={"n": 1})
    write_manifest(second, name="a", id="a-1", type="adapter", meta={"n": 2})
    assert latest(tmp_path, "a") == second
    assert latest(tmp_path, "a", "a-9") == first
    assert read_manifest(first).meta == {"n": 1}
    with pytest.raises(NotFoundError, match="there are: a"):
        latest(tmp_path, "b")


def test_missing_file_is_found(tmp_path: Path) -> None:
    folder = make(tmp_path, "a", "a-1")
    write_manifest(folder, name="a", id="a-1", type="adapter", meta={})
    (folder / "weights.txt").unlink()
    with pytest.raises(ModelError, match=r"weights\.txt missing"):
        read_manifest(folder)


def test_nothing_that_a_manifest_names_is_lost_with_the_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: stored.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    folder = make(tmp_path, "a", "a-1")
    (folder / "part").mkdir()
    (folder / "part" / "more.txt").write_text("more")
    write_manifest(folder, name="a", id="a-1", type="adapter", meta={})
    names = [str(Path(path).relative_to(tmp_path / "artifacts")) for path in stored]
    manifest = names.index("a/a-1/manifest.json.partial")
    assert {"a/a-1/weights.txt", "a/a-1/part/more.txt", "a/a-1/part", "a/a-1", "a", "."} == set(names[:manifest])
    assert names[manifest + 1 :] == ["a/a-1"]


def test_a_manifest_that_cannot_be_read_is_passed_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = make(tmp_path, "a", "a-1"), make(tmp_path, "a", "a-2")
    write_manifest(first, name="a", id="a-1", type="adapter", meta={})
    for content in (b'{"name": "a", "id', b"\x00\xff", b"[]"):
        (second / "manifest.json").write_bytes(content)
        os.utime(second / "manifest.json", (0, 0))
        caplog.clear()
        assert latest(tmp_path, "a") == first
        assert str(second) in caplog.text
    # Not where it is the newest, where it is meant, or the only one.
    os.utime(second / "manifest.json")
    with pytest.raises(ModelError, match="can't be read"):
        latest(tmp_path, "a")
    with pytest.raises(ModelError, match="can't be read"):
        latest(tmp_path, "a", "a-2")
    (first / "manifest.json").unlink()
    with pytest.raises(ModelError, match="can't be read"):
        latest(tmp_path, "a")
