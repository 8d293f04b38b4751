"""What a server finds of itself and of its cluster, with what to do about it; it changes nothing."""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import httpx
from sqlalchemy.exc import SQLAlchemyError

import tandem
from tandem.config.cluster import Cluster, without_password
from tandem.errors import TandemError
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.records import Records

DISK_GIB = 10.0
GIB = 2**30
PROBE_TIMEOUT_S = 5.0
SQLITE = "sqlite:///"

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


def server_versions() -> dict[str, str]:
    """Of this process."""
    found = {"tandem": tandem.__version__, "python": platform.python_version()}
    with suppress(PackageNotFoundError):
        found["ray"] = version("ray")
    return found


def server_checks(cluster: Cluster, records: Records, ray: HttpRayJobs) -> list[Check]:
    """All that the server can see of what it needs."""
    return [
        _database(cluster, records),
        _storage(cluster.storage),
        disk(cluster.storage),
        *_ray(ray),
        _mlflow(cluster.mlflow_uri),
        _qdrant(cluster),
    ]


def disk(folder: Path) -> Check:
    """Room at a folder, or where it would be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / GIB
    found = f"{free:.0f} GiB free at {there}"
    if free >= DISK_GIB:
        return Check("disk", "ok", found)
    remedy = f"free {DISK_GIB:.0f} GiB: artifacts/, jobs/ and packages/ of old jobs can be deleted"
    return Check("disk", "warn" if free >= 1 else "bad", found, remedy)


def compare_versions(client: dict[str, str], server: dict[str, str], cluster: dict[str, str]) -> Iterator[Check]:
    """Whether three sides fit together.

    Args:
        client: `tandem` and `python` of who asks.
        server: `tandem`, `python` and `ray` of the server.
        cluster: `python` and `ray` of the cluster; empty where Ray doesn't say.
    """
    same = client["tandem"] == server["tandem"]
    found = f"client {client['tandem']}, server {server['tandem']}"
    yield Check("tandem versions", "ok" if same else "bad", found, "" if same else "install the same version on both")
    if not cluster:
        return
    if "ray" in server:
        same = server["ray"] == cluster["ray"]
        found = f"server {server['ray']}, cluster {cluster['ray']}"
        yield Check(
            "ray versions", "ok" if same else "bad", found, "" if same else "install the cluster's on the server"
        )
    minors = {
        side: ".".join(each["python"].split(".")[:2]) for side, each in (("server", server), ("cluster", cluster))
    }
    same = len(set(minors.values())) == 1
    found = f"client {client['python']}, server {server['python']}, cluster {cluster['python']}"
    remedy = "" if same else "Ray wants one minor version of Python on all its nodes: install the cluster's"
    yield Check("python versions", "ok" if same else "bad", found, remedy)


def _database(cluster: Cluster, records: Records) -> Check:
    shown = without_password(cluster.database_url)
    try:
        jobs = sum(records.counts().values())
    except (SQLAlchemyError, TandemError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return Check("database", "bad", f"{shown}: {why}", "start it, or mend `database` in the cluster file")
    return Check("database", "ok", f"{shown}, {jobs} jobs")


def _storage(folder: Path) -> Check:
    probe = folder / f".{uuid.uuid4().hex}.probe"
    try:
        with probe.open("w") as file:
            file.write("tandem")
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        probe.unlink(missing_ok=True)
        return Check(
            "storage", "bad", f"{folder}: {error.strerror}", "the server's account must be able to write there"
        )
    return Check("storage", "ok", f"{folder} can be written")


def _ray(ray: HttpRayJobs) -> Iterator[Check]:
    try:
        machines = ray.machines()
    except TandemError as error:
        yield Check("ray", "bad", str(error.what), error.remedy or "")
        return
    if machines is None:
        yield Check("ray", "bad", "it doesn't answer", "`tandem up` starts what isn't up")
        return
    cpus, gpus = sum(each.cpus for each in machines), sum(each.gpus for each in machines)
    found = f"{len(machines)} nodes, {cpus:g} CPUs, {gpus:g} GPUs"
    yield Check("ray", "ok" if machines else "bad", found, "" if machines else "no node lives: see Ray's dashboard")


def _mlflow(uri: str) -> Check:
    shown = without_password(uri)
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
        writable = os.access(path if path.exists() else path.parent, os.W_OK)
        remedy = "" if writable else "the account of the jobs must be able to write there"
        return Check("mlflow", "ok" if writable else "warn", shown, remedy)
    if not uri.startswith(("http://", "https://")):
        return Check("mlflow", "ok", shown)
    return _answers("mlflow", f"{uri.rstrip('/')}/health", shown, {}, "jobs run without it; start it, or mend `mlflow`")


def _qdrant(cluster: Cluster) -> Check:
    if cluster.qdrant_url is None:
        return Check("qdrant", "ok", "embedded")
    headers = {}
    if cluster.qdrant_api_key_env:
        key = os.environ.get(cluster.qdrant_api_key_env)
        if key is None:
            remedy = "set it where `tandem up` is called"
            return Check("qdrant", "bad", f"the server has no variable {cluster.qdrant_api_key_env}", remedy)
        headers["api-key"] = key
    url = f"{cluster.qdrant_url.rstrip('/')}/collections"
    remedy = "start it, or mend `qdrant` in the cluster file"
    return _answers("qdrant", url, without_password(cluster.qdrant_url), headers, remedy, result="bad")


def _answers(
    name: str, url: str, shown: str, headers: dict[str, str], remedy: str, *, result: Result = "warn"
) -> Check:
    try:
        response = httpx.get(url, headers=headers, timeout=PROBE_TIMEOUT_S)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return Check(name, result, f"{shown} doesn't answer: {type(error).__name__}", remedy)
    if not response.is_success:
        return Check(name, result, f"{shown} answers {response.status_code}", remedy)
    return Check(name, "ok", shown)


def as_answer(cluster: Cluster, records: Records, ray: HttpRayJobs) -> dict[str, Any]:
    """What the server tells `tandem doctor`."""
    return {
        "server": server_versions(),
        "cluster": ray.versions(),
        "checks": [check.as_dict() for check in server_checks(cluster, records, ray)],
    }
