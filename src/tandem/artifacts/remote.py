"""Folders of weights on other filesystems, fetched into the cache once for each content."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tandem.artifacts.filesystems import RemoteFile, list_remote
from tandem.artifacts.manifest import MANIFEST, read_manifest, sha256_file
from tandem.errors import InputError, ModelError, NotFoundError, UnreachableError

# Weights in other formats than safetensors may carry code: they aren't even fetched.
UNSAFE = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".py")


def fetch(uri: str, cache: Path) -> Path:
    """The local copy of a remote folder or file, fetched if its content isn't in the cache yet.

    The content is known by the manifest, where there is one, and each file is checked against it; else by what the
    filesystem says of the files. Pickled weights and code stay where they are.

    Args:
        uri: A filesystem's URI, as `s3://bucket/folder`.
        cache: The folder of all copies.

    Raises:
        InputError: A file's path leaves the folder.
        ModelError: A file isn't what the manifest says.
        NotFoundError: Nothing is there.
        UnreachableError: There is no such filesystem, it refuses, or broke off.
    """
    files = {file.relative: file for file in list_remote(uri) if not file.path.endswith(UNSAFE)}
    if not files:
        raise NotFoundError("no such file or folder", where=uri, remedy="check the address")
    for relative in files:
        _check_inside(relative, uri)
    try:
        target = cache / _key(uri, files)
        if not target.is_dir():
            _copy(list(files.values()), target, uri)
    except OSError as error:
        raise UnreachableError(f"can't be fetched: {error}", where=uri, remedy="try again") from error
    return target / Path(files[""].path).name if "" in files else target


def _check_inside(relative: str, uri: str) -> None:
    # An object's key may be anything, `../x` too.
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative:
        raise InputError(f"the path {relative!r} leaves its folder", where=uri)


def _key(uri: str, files: dict[str, RemoteFile]) -> str:
    digest = hashlib.sha256(uri.encode())
    if MANIFEST in files:
        # It has the hash of every other file, and is written last.
        with files[MANIFEST].open() as manifest:
            digest.update(manifest.read())
    else:
        digest.update(json.dumps(sorted((name, file.state()) for name, file in files.items())).encode())
    name = PurePosixPath(uri.rstrip("/")).name
    return f"{name}-{digest.hexdigest()[:16]}"


def _copy(files: Sequence[RemoteFile], target: Path, uri: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        folder = Path(scratch) / "copy"
        for file in files:
            local = folder / (file.relative or Path(file.path).name)
            local.parent.mkdir(parents=True, exist_ok=True)
            with file.open() as source, local.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        if (folder / MANIFEST).is_file():
            _check(folder, uri)
        try:
            folder.rename(target)
        except OSError:
            # Another process fetched the same content meanwhile.
            if not target.is_dir():
                raise


def _check(folder: Path, uri: str) -> None:
    for name, sha256 in read_manifest(folder).files.items():
        if sha256_file(folder / name) != sha256:
            raise ModelError(f"{name} isn't what its manifest says", where=uri, remedy="copy the artifact there again")
