"""An artifact exists when its manifest does, and not before."""

from __future__ import annotations

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
