"""A Ray cluster of two machines on one: the second has a network of its own, whose cable can be pulled.

It is a network namespace with an address of its own, at the end of a virtual cable (veth). Files are shared, as on a
cluster with a shared folder, but for those of Ray itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tandem.orchestrator.processes import MARK, end, free_port, marked

# What Ray does in minutes is done in seconds here.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
    # Drivers are on either machine: by default on the head's alone.
    "RAY_JOB_ALLOW_DRIVER_ON_WORKER_NODES": "1",
}
START_TIMEOUT_S = 120
LEFT_BEHIND = "log_monitor.py"


def missing() -> str | None:
    """Why there can be none on this machine; None where there can."""
    if not shutil.which("ip"):
        return "no network namespaces: install the package iproute2"
    probe = f"tdm-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces: {made.stderr.strip()}"
    _ip("netns", "del", probe)
    return None


class TwoMachines:
    """The head, on this machine's side of the cable, and the node on the other.

    Args:
        folder: For sockets, logs and the token; its path must be short.
    """

    def __init__(self, folder: Path) -> None:
        number = os.getpid() % 250
        self._ray = str(folder / "ray")
        Path(self._ray).mkdir()
        self._name = f"tdm{os.getpid()}"
        self._head_address, self._node_address = f"10.213.{number}.1", f"10.213.{number}.2"
        self._port = free_port()
        self.dashboard_url = f"http://{self._head_address}:{free_port([self._port])}"
        self.token_file = folder / "ray-token"
        self.token_file.write_text(secrets.token_hex(16))

    def connect(self) -> None:
        """Lay the cable."""
        _ip("netns", "add", self._name)
        _ip("link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        _ip("addr", "add", f"{self._head_address}/30", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for device, address in (("lo", None), ("eth0", self._node_address)):
            if address:
                _ip("-n", self._name, "addr", "add", f"{address}/30", "dev", device)
            _ip("-n", self._name, "link", "set", device, "up")
        # Ray takes the address by which a machine would reach the world for the machine's own.
        _ip("-n", self._name, "route", "add", "default", "via", self._head_address)

    def start_head(self) -> None:
        """Ray's head, with one CPU."""
        url = self.dashboard_url.rpartition(":")
        self._start(
            "head",
            ["--head", f"--port={self._port}", f"--dashboard-host={self._head_address}", f"--dashboard-port={url[2]}"],
            address=self._head_address,
            device=self._name,
        )

    def start_node(self) -> None:
        """Ray's other node, with one CPU."""
        self._start(
            "node",
            [f"--address={self._head_address}:{self._port}"],
            address=self._node_address,
            device="eth0",
            # As real machines do, each has Ray's own files for itself.
            within=["ip", "netns", "exec", self._name, "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', self._ray],
        )

    def cut(self) -> None:
        """Pull the cable: nobody is told, packets are lost."""
        _ip("link", "set", self._name, "down")

    def mend(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self._name, "up")

    def of_head(self) -> list[psutil.Process]:
        """The head's processes, those of jobs among them."""
        return marked(f"{self._name}-head")

    def of_node(self) -> list[psutil.Process]:
        """The node's processes; they live on while it is cut off.

        The one that reads logs isn't among them: Ray leaves it when the others end.
        """
        return [process for process in marked(f"{self._name}-node") if LEFT_BEHIND not in " ".join(process.cmdline())]

    def end(self) -> None:
        """Leave nothing of it."""
        end([process for part in ("node", "head") for process in marked(f"{self._name}-{part}")])
        # The device goes with its namespace's, and the namespace goes once nobody is in it.
        subprocess.run(["ip", "link", "del", self._name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self._name], capture_output=True, check=False)

    def _start(
        self, part: str, options: list[str], *, address: str, device: str, within: list[str] | None = None
    ) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TANDEM_"))}
        environment = {
            **kept,
            **QUICK,
            MARK: f"{self._name}-{part}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            # Both machines have the same name, which is this machine's.
            "GLOO_SOCKET_IFNAME": device,
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", "--num-cpus=1"]
        command += [f"--node-ip-address={address}", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--dashboard-agent-listen-port=0", f"--temp-dir={self._ray}", *options]
        done = subprocess.run(
            [*(within or []), *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def two_machines() -> Iterator[TwoMachines]:
    """Both up, for as long as it is open."""
    # A socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = TwoMachines(Path(folder))
        try:
            made.connect()
            made.start_head()
            made.start_node()
            yield made
        finally:
            made.end()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
