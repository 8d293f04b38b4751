"""`ray start --head`, with tokens on and nothing shared with other Ray clusters of the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tandem.config.cluster import Cluster
from tandem.errors import TandemError
from tandem.orchestrator.processes import MARK, free_port, free_ports, marked, tail
from tandem.orchestrator.ray_jobs import HttpRayJobs

START_TIMEOUT_S = 120.0
READY_TIMEOUT_S = 60.0
POLL_S = 0.2
# Serve adds the node's id (56) and `/metrics.sock`; HAProxy takes socket paths of at most 97 bytes.
HAPROXY_PATH_MAX = 97 - 57 - len("/metrics.sock")
# Fixed by default. The fallback's is shared by whoever listens there: while an ingress replica takes over settings,
# requests went to another cluster's proxy, which answered 404.
HAPROXY_PORTS = (
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
)
_EXPORTERS = "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"
# Ray logs there each job's whole environment, the values that stand in no record of ours among it.
_TELLS_SECRETS = "runtime_env_agent*"
# What the environment says goes before these. Ray lists its log files ten times a second while they are fewer than so
# many, then twice.
LESS_POLLING = {"RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0"}
PARTS = {"gcs_server": "gcs", "raylet": "raylet", "dashboard.py": "dashboard"}


def start_head(cluster: Cluster, mark: str, temp_dir: Path, *, cpus: int) -> dict[str, int]:
    """Start a Ray head on this machine and wait until it takes jobs.

    Args:
        cluster: Says the ports and where the token lies.
        mark: Goes into the environment of every process of the head.
        temp_dir: For Ray's sockets and logs; emptied first, so nothing may live in it.
        cpus: Logical CPUs to offer.

    Returns:
        Process ids by part.

    Raises:
        TandemError: It didn't come up in time.
    """
    shutil.rmtree(temp_dir, ignore_errors=True)
    # Ray lets everybody into the folder that it is given, its sockets and logs included: this one lies around it.
    temp_dir.mkdir(mode=0o700)
    log = cluster.storage / "logs" / "ray-start.log"
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                head_command(cluster, temp_dir, cpus),
                env=head_environment(cluster, mark, temp_dir),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=START_TIMEOUT_S,
                check=False,
                # A Ctrl-C meant for a later `--follow` must not reach the head.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise TandemError(f"the Ray head wasn't up after {START_TIMEOUT_S:.0f} s", where=str(log)) from None
    if done.returncode:
        raise TandemError(f"the Ray head didn't start: {tail(log)}", where=str(log), remedy="the log says more")
    ray = HttpRayJobs(cluster)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not ray.cpus():
        if time.monotonic() > deadline:
            raise TandemError(
                f"the Ray dashboard didn't answer within {READY_TIMEOUT_S:.0f} s",
                where=cluster.dashboard_url,
                remedy=f"{log} and {sessions(temp_dir)}/session_latest/logs say more",
            )
        time.sleep(POLL_S)
    pids = {}
    for process in marked(mark):
        words = {Path(word).name for word in process.cmdline()[:4]}
        pids.update({part: process.pid for sign, part in PARTS.items() if sign in words})
    return pids


def sessions(temp_dir: Path) -> Path:
    """Where Ray's sessions lie."""
    return temp_dir / "ray"


def head_command(cluster: Cluster, temp_dir: Path, cpus: int) -> list[str]:
    """The command line of the head."""
    # Ray listens with its client server and its agents too; fixed defaults would clash with another cluster's.
    options = {
        "node-ip-address": "127.0.0.1",
        "port": cluster.ray_address.rpartition(":")[2],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": str(urlsplit(cluster.dashboard_url).port),
        "ray-client-server-port": str(free_port()),
        "dashboard-agent-listen-port": "0",
        "min-worker-port": "0",
        "max-worker-port": "0",
        "num-cpus": str(cpus),
        "temp-dir": str(sessions(temp_dir)),
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats", *flags]


def head_environment(cluster: Cluster, mark: str, temp_dir: Path) -> dict[str, str]:
    """What every process of the cluster inherits."""
    environment = LESS_POLLING | os.environ | cluster.ray_env() | haproxy_environment(temp_dir / "h") | {MARK: mark}
    environment |= tracing_environment(environment)
    # `ray start --head` refuses to start a head where this names another.
    environment.pop("RAY_ADDRESS")
    return environment


def tracing_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Serve's tracing, where OpenTelemetry's own variables name a collector; what is set already stays."""
    wanted = any(environment.get(f"OTEL_EXPORTER_OTLP_{which}ENDPOINT") for which in ("", "TRACES_"))
    if not wanted or environment.get(_EXPORTERS):
        return {}
    return {_EXPORTERS: "tandem.serving.tracing:exporters"}


def haproxy_environment(haproxy: Path) -> dict[str, str]:
    """Serve's fast way in, with files and ports of this cluster's own; none where the path is too long for it."""
    if len(str(haproxy)) > HAPROXY_PATH_MAX:
        return {}
    return {
        # Three deployments in a row: 4-6 ms instead of 15-20 (measured).
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(sys.executable).with_name("tandem-haproxy")),
        # A replica that leaves waits 30 s by default until load balancers elsewhere know; ours hears within 0.1 s.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        # By default the files lie under /tmp/haproxy-serve, which may be another user's, and the ports are fixed.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        **{name: str(port) for name, port in zip(HAPROXY_PORTS, free_ports(len(HAPROXY_PORTS)), strict=True)},
    }


def keep_logs(temp_dir: Path, kept: Path) -> None:
    """Ray's logs of the session that ended go to the storage folder; its sockets and the rest go away."""
    if not temp_dir.is_dir() or temp_dir.stat().st_uid != os.getuid():
        return
    last = sorted(path for path in sessions(temp_dir).glob("session_*") if not path.is_symlink())[-1:]
    for logs in [path / "logs" for path in last if (path / "logs").is_dir()]:
        shutil.rmtree(kept, ignore_errors=True)
        left_out = shutil.ignore_patterns(_TELLS_SECRETS)
        shutil.copytree(logs, kept, symlinks=True, ignore=left_out, ignore_dangling_symlinks=True)
    shutil.rmtree(temp_dir, ignore_errors=True)
