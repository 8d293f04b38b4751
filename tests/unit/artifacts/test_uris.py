"""URIs become paths; a pypi: archive is fetched once, checked, and never left."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from tandem.artifacts import uris
from tandem.errors import InputError, NotFoundError, UnreachableError


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A wheel in a local index, so that the real pip is used and no network; returns its sha256."""
    index = tmp_path / "index"
    index.mkdir()
    path = index / "tinydata-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinydata/docs/a.txt", "hello")
        archive.writestr("tinydata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
        archive.writestr(
            "tinydata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tinydata-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pypi_archive_is_fetched_once(wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"pypi:tinydata==1.0/tinydata/docs#sha256={wheel}"
    assert (uris.resolve(uri, storage=tmp_path) / "a.txt").read_text() == "hello"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("fetched twice"))
    assert uris.resolve(uri, storage=tmp_path).is_dir()


def test_wrong_hash_is_refused_and_nothing_is_left(wheel: str, tmp_path: Path) -> None:
    assert wheel
    with pytest.raises(UnreachableError, match="pip could not download"):
        uris.resolve(f"pypi:tinydata==1.0/tinydata#sha256={'0' * 64}", storage=tmp_path)
    assert list((tmp_path / "cache" / "pypi").iterdir()) == []


def test_path_cannot_leave_the_archive(wheel: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leaves its archive"):
        uris.resolve(f"pypi:tinydata==1.0/../../..#sha256={wheel}", storage=tmp_path)


@pytest.mark.parametrize("uri", ["pypi:tinydata", "pypi:tinydata==1.0/x", "pypi:tinydata==1.0#sha256=abc"])
def test_pypi_uri_without_pin_is_malformed(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="malformed"):
        uris.resolve(uri, storage=tmp_path)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file or folder"):
        uris.resolve(str(tmp_path / "nothing"), storage=tmp_path)
    assert uris.resolve(f"file:{tmp_path}", storage=tmp_path) == tmp_path
