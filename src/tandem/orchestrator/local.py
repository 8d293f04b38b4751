"""A cluster on this machine: a Ray head with tokens on, and the Tandem server beside it.

Both carry a mark in their environment that follows from the storage path, so that `down` finds exactly the
processes of this cluster, even after an `up` that was killed half-way.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from tandem.config.cluster import STORAGE_VARIABLE, Cluster, storage_path
from tandem.config.machine import cores
from tandem.errors import AuthError, ConflictError, InputError, TandemError, UnreachableError
from tandem.orchestrator.deploying.deployer import APPLICATIONS
from tandem.orchestrator.processes import alone, end, free_port, marked, port_in_use
from tandem.orchestrator.ray_head import keep_logs, start_head
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.secrets import make_secrets
from tandem.orchestrator.server_process import start_server
from tandem.orchestrator.settings import ServerSettings
from tandem.specs import ClusterSpec

PROBE_TIMEOUT_S = 5.0
SERVE_SHUTDOWN_TIMEOUT_S = 15.0
POLL_S = 0.2
SCANS = 4
# Local clusters keep two logical CPUs more than there are cores, so that an endpoint left up doesn't keep jobs waiting.
ENDPOINT_CPUS = 2

PARTS = ("ray", "server")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Marks:
    """What tells the processes of one cluster from all others, and where Ray keeps its sockets."""

    ray: str
    server: str
    temp_dir: Path

    @classmethod
    def of(cls, storage: Path) -> Marks:
        """They follow from the storage path."""
        digest = hashlib.sha256(str(storage).encode()).hexdigest()[:12]
        # Ray's and HAProxy's sockets lie below, and the path of a socket has at most 107 and 97 bytes: neither the
        # storage path nor $TMPDIR is sure to be short enough.
        base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
        return cls(f"{digest}-ray", f"{digest}-server", base / f"tdm-{digest}")


@dataclass(frozen=True)
class Up:
    """What `up` did.

    Attributes:
        cluster: The cluster, which is up.
        started: The parts that were started now: none where everything was up already.
    """

    cluster: Cluster
    started: tuple[str, ...]


def up(spec: ClusterSpec, *, say: Say = lambda _: None) -> Up:
    """Start what isn't up yet: the Ray head (unless the spec names one elsewhere) and the server.

    Args:
        spec: The cluster file's content. ``$TANDEM_STORAGE`` goes before its storage path, as in every command.
        say: Told what is happening, a line at a time.

    Raises:
        ConflictError: Another `up` is starting this cluster.
        InputError: A port is in use.
        AuthError: A Ray cluster elsewhere refuses the token.
        UnreachableError: A Ray cluster elsewhere doesn't answer.
        TandemError: A part didn't come up; what had been started is stopped again.
    """
    storage = storage_path(None if os.environ.get(STORAGE_VARIABLE) else Path(spec.storage))
    marks = Marks.of(storage)
    # It would take the other's half-started processes for left-overs.
    with alone(marks.temp_dir.with_suffix(".lock")) as first:
        running = _running(storage)
        lives = _living(running)
        if running is not None and len(lives) == len(PARTS):
            return Up(running, ())
        if not first:
            raise ConflictError(
                "another `tandem up` is starting this cluster", where=str(storage), remedy="wait until it is done"
            )
        return _start(spec, storage, marks, running, lives, say)


def _start(
    spec: ClusterSpec, storage: Path, marks: Marks, running: Cluster | None, lives: frozenset[str], say: Say
) -> Up:
    local = spec.address == "local"
    _clear(marks, running, lives, local=local)
    cluster = running if running is not None and lives else _plan(spec, storage)
    _check_ports(cluster, lives)
    # Documents, weights and records are their owner's. A folder that is there already keeps the mode that it was given.
    storage.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in ("artifacts", "index", "jobs", "logs"):
        (storage / folder).mkdir(exist_ok=True)
    make_secrets(cluster)
    started = tuple(part for part in PARTS if part not in lives and (local or part == "server"))
    try:
        if "ray" in started:
            say(f"starting a Ray head ({logical_cpus(spec)} logical CPUs)")
            pids = start_head(cluster, marks.ray, marks.temp_dir, cpus=logical_cpus(spec))
            cluster = replace(cluster, pids={**cluster.pids, **pids})
        elif not local:
            _check_remote(cluster)
        if "server" in started:
            say("starting the Tandem server")
            pid = start_server(ServerSettings.of(spec, cluster), marks.server)
            cluster = replace(cluster, pids={**cluster.pids, "server": pid})
        cluster.save()
    except BaseException:
        # Nothing half up is left behind, whatever stopped us, Ctrl-C included.
        for part in started:
            end(marked(marks.server if part == "server" else marks.ray))
        raise
    return Up(cluster, started)


def down(storage: Path | None = None, *, say: Say = lambda _: None) -> bool:
    """Stop the cluster's processes, what runs on Serve included. Records and artifacts stay.

    Returns:
        Whether there was anything to stop.

    Raises:
        TandemError: A process outlived a SIGKILL.
    """
    folder = storage_path(storage)
    marks = Marks.of(folder)
    try:
        running = _running(folder)
    except UnreachableError:
        # Its processes bear our mark, whatever the file says.
        running = None
    (folder / "cluster.json").unlink(missing_ok=True)
    processes = marked(marks.server) + marked(marks.ray)
    if running is not None and running.local and processes:
        _stop_serve(running, say)
    if processes:
        say("stopping the server")
        end(marked(marks.server))
        say("stopping Ray")
    left = processes
    for _ in range(SCANS):
        left = marked(marks.server) + marked(marks.ray)
        if not left:
            break
        end(left)
    if left:
        raise TandemError(f"still running: {', '.join(f'{p.pid} ({p.name()})' for p in left)}", remedy="run it again")
    (folder / "server.json").unlink(missing_ok=True)
    keep_logs(marks.temp_dir, folder / "logs" / "ray")
    return bool(processes)


def answers(server_url: str) -> bool:
    """Whether a Tandem server lives there."""
    try:
        response = httpx.get(f"{server_url}/healthz", timeout=PROBE_TIMEOUT_S, trust_env=False)
    except httpx.TransportError:
        return False
    return response.is_success


def logical_cpus(spec: ClusterSpec) -> int:
    """CPUs that a local head offers."""
    return spec.cpus or cores() + ENDPOINT_CPUS


def _running(storage: Path) -> Cluster | None:
    return Cluster.load(storage) if (storage / "cluster.json").exists() else None


def _plan(spec: ClusterSpec, storage: Path) -> Cluster:
    """The cluster as it will be, with free ports in the place of zeros."""
    ports = spec.ports
    picked: list[int] = [port for port in ports.model_dump().values() if port]

    def pick(port: int) -> int:
        if not port:
            port = free_port(picked)
            picked.append(port)
        return port

    local = spec.address == "local"
    dashboard = f"http://127.0.0.1:{pick(ports.dashboard)}" if local else spec.address.rstrip("/")
    host = "127.0.0.1" if local else httpx.URL(spec.address).host
    if local:
        token: Path | None = storage / "ray-token"
    else:
        token = Path(spec.ray_token_file).expanduser().absolute() if spec.ray_token_file else None
    return Cluster(
        storage=storage,
        # A job inside a cluster elsewhere is told its own head's address by Ray.
        ray_address=f"127.0.0.1:{pick(ports.gcs)}" if local else "auto",
        dashboard_url=dashboard,
        server_url=f"http://127.0.0.1:{pick(ports.server)}",
        endpoint_url=f"http://{host}:{pick(ports.endpoint)}",
        database_url=spec.database or f"sqlite:///{storage / 'tandem.db'}",
        mlflow_uri=spec.mlflow or f"sqlite:///{storage / 'mlflow.db'}",
        qdrant_url=spec.qdrant.url,
        qdrant_api_key_env=spec.qdrant.api_key_env,
        ray_token_file=token,
        api_key_file=storage / "api-key",
        local=local,
        grows_to=spec.grows_to,
    )


def _living(cluster: Cluster | None) -> frozenset[str]:
    """Which parts of a cluster answer."""
    if cluster is None:
        return frozenset()
    ray = {"ray"} if HttpRayJobs(cluster).cpus() is not None else set()
    return frozenset(ray | ({"server"} if answers(cluster.server_url) else set()))


def _clear(marks: Marks, running: Cluster | None, lives: frozenset[str], *, local: bool) -> None:
    """End what is left of parts that don't answer."""
    if "server" not in lives:
        end(marked(marks.server))
    if "ray" in lives or not local:
        return
    leftovers = marked(marks.ray)
    if running is not None and any(process.name() == "gcs_server" for process in leftovers):
        # It may only be busy, and jobs may be running: to end it is the user's decision.
        raise TandemError(
            "the Ray head runs, but its dashboard doesn't answer",
            where=running.dashboard_url,
            remedy="wait and try again, or run `tandem down` first",
        )
    end(leftovers)


def _check_ports(cluster: Cluster, lives: frozenset[str]) -> None:
    """Refuse to start where something else listens."""
    ports = {} if "server" in lives else {"server": httpx.URL(cluster.server_url).port or 0}
    if cluster.local and "ray" not in lives:
        ports["gcs"] = int(cluster.ray_address.rpartition(":")[2])
        ports["dashboard"] = httpx.URL(cluster.dashboard_url).port or 0
        ports["endpoint"] = httpx.URL(cluster.endpoint_url).port or 0
    if taken := [name for name, port in ports.items() if port_in_use(port, _bind_host(name))]:
        raise InputError(
            f"in use: {', '.join(f'port {ports[name]} ({name})' for name in taken)}",
            remedy=f"stop what listens there, or set `ports: {{{taken[0]}: 0}}` in the cluster file for a free one",
        )


def _bind_host(part: str) -> str:
    # Ray's GCS listens on every address, whatever it is told; the others on loopback alone.
    return "0.0.0.0" if part == "gcs" else "127.0.0.1"


def _check_remote(cluster: Cluster) -> None:
    response = HttpRayJobs(cluster).call("GET", "/api/version")
    if not response.is_success or "ray_version" not in response.text:
        raise UnreachableError("this is no Ray dashboard", where=cluster.dashboard_url, remedy="check `address`")


def _stop_serve(cluster: Cluster, say: Say) -> None:
    """Let replicas close their engines before their processes are ended; without it they are killed, no more."""
    ray = HttpRayJobs(cluster)
    deadline = time.monotonic() + SERVE_SHUTDOWN_TIMEOUT_S
    try:
        names = _applications(ray)
        if names:
            say(f"undeploying {', '.join(sorted(names))}")
            # Serve's DELETE also drains its proxies, for half a minute: nobody is left to be served.
            ray.call("PUT", APPLICATIONS, json={"applications": []})
        while names and time.monotonic() < deadline:
            time.sleep(POLL_S)
            names = _applications(ray)
    except (AuthError, UnreachableError):
        say("Ray Serve doesn't answer; its processes are stopped with the others")


def _applications(ray: HttpRayJobs) -> list[str]:
    response = ray.call("GET", APPLICATIONS, timeout=PROBE_TIMEOUT_S)
    return list(response.json().get("applications") or {}) if response.is_success else []
