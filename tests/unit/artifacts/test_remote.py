"""What lies on another filesystem is fetched once for each content, checked, and without what can run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem.artifacts import filesystems, uris
from tandem.artifacts.manifest import write_manifest
from tandem.errors import InputError, ModelError, NotFoundError, UnreachableError

URI = "fsspec+memory://bucket/tuned"
FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "deep/notes.txt": b"notes"}


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's filesystem in memory, which pyarrow reaches as any object store; and a cache of our own."""
    import fsspec

    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def upload(memory: Any, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        memory.pipe_file(f"/bucket/tuned/{name}", content)


def fetched(uri: str = URI) -> Path:
    return uris.resolve(uri, storage=Path("unused"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_fetched_once_and_again_when_it_changes(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(memory, FILES)
    assert uris.cached(URI, storage=Path("unused")) is None
    first = fetched()
    assert contents(first) == FILES
    monkeypatch.setattr(filesystems.RemoteFile, "open", lambda _: pytest.fail("fetched twice"))
    assert fetched() == first
    monkeypatch.undo()
    # As long as before: it isn't the size alone that tells.
    upload(memory, {"adapter_model.safetensors": b"WEIGHTS"})
    monkeypatch.setenv("TANDEM_CACHE", str(first.parents[1]))
    second = fetched()
    assert contents(second)["adapter_model.safetensors"] == b"WEIGHTS"
    assert contents(first) == FILES


def test_one_file_is_fetched_under_its_name(memory: Any) -> None:
    upload(memory, FILES)
    path = fetched(f"{URI}/deep/notes.txt")
    assert (path.name, path.read_bytes()) == ("notes.txt", b"notes")


def test_what_can_run_code_stays_where_it_is(memory: Any) -> None:
    upload(memory, FILES | {"adapter_model.bin": b"pickle", "code.py": b"import os"})
    assert contents(fetched()) == FILES


@pytest.fixture
def artifact(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "artifact"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder, name="tuned", id="tuned-1", type="adapter", meta={})
    return contents(folder)


def test_an_artifact_is_known_by_its_manifest(memory: Any, artifact: dict[str, bytes]) -> None:
    upload(memory, artifact)
    first = fetched()
    assert contents(first) == artifact
    # Uploaded anew it is the same content.
    upload(memory, artifact)
    assert fetched() == first


def test_an_artifact_that_is_not_what_its_manifest_says_is_refused(memory: Any, artifact: dict[str, bytes]) -> None:
    upload(memory, artifact | {"adapter_model.safetensors": b"others"})
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors isn't what its manifest says"):
        fetched()
    # Mended, it is fetched: nothing of the broken one was kept.
    upload(memory, artifact)
    assert contents(fetched()) == artifact


@pytest.mark.parametrize("relative", ["../escaped", "deep/../../escaped", "/etc/passwd", "..\\escaped"])
def test_a_path_cannot_leave_its_folder(memory: Any, tmp_path: Path, relative: str, monkeypatch: Any) -> None:
    """An object store takes any key; fsspec's memory doesn't, so what it lists is replaced."""
    upload(memory, FILES)
    (file,) = filesystems.list_remote(f"{URI}/deep/notes.txt")
    escaping = filesystems.RemoteFile(relative, file.path, file.filesystem, file.size, None)
    monkeypatch.setattr("tandem.artifacts.remote.list_remote", lambda _: [escaping])
    with pytest.raises(InputError, match="leaves its folder"):
        fetched()
    assert not list(tmp_path.rglob("*escaped*"))


def test_nothing_there_and_no_such_filesystem_are_told_apart(memory: Any) -> None:
    assert memory.store == {}
    with pytest.raises(NotFoundError, match="no such file or folder"):
        fetched("fsspec+memory://bucket/none")
    with pytest.raises(UnreachableError, match="can't be read"):
        fetched("teapot://bucket/none")


def test_pyarrows_own_filesystems_are_read_too(memory: Any, tmp_path: Path) -> None:
    """Not through fsspec: what tells a content is size and time."""
    from pyarrow.fs import LocalFileSystem

    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    info = LocalFileSystem().get_file_info(str(path))
    file = filesystems.RemoteFile("", str(path), LocalFileSystem(), info.size, info.mtime_ns)
    with file.open() as stream:
        assert stream.read() == b"one"
    assert file.state() == f"3 {path.stat().st_mtime_ns}"
