"""Two real servers on one Postgres, without a Ray: which of them acts, and what both answer."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_ins.command_line import until
from stand_ins.postgres import missing, postgres
from stand_ins.world import index_spec, make_cluster

from tandem.config.cluster import Cluster
from tandem.orchestrator.controller import Policy
from tandem.orchestrator.processes import free_ports
from tandem.orchestrator.scheduler import Rules
from tandem.orchestrator.settings import ServerSettings

pytestmark = pytest.mark.skipif(bool(missing()), reason=str(missing()))


class Server:
    """`python -m tandem.server`, and what it says."""

    def __init__(self, cluster: Cluster, log: Path) -> None:
        settings = ServerSettings(cluster, Policy(retry=True, max_attempts=5), Rules({}, {}, 600, 300, None))
        file = settings.save().rename(log.with_suffix(".json"))
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tandem.server", str(file)], stdout=out, stderr=subprocess.STDOUT
            )
        self.log = log
        key = {"Authorization": f"Bearer {cluster.api_key()}"}
        self._http = httpx.Client(base_url=f"{cluster.server_url}/api/v1", headers=key, timeout=20, trust_env=False)

    def get(self, path: str) -> Any:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return self._http.get(path).json()
        return {}

    def submit(self, name: str) -> Any:
        return self._http.post("/jobs", json={"spec": index_spec(name)}).json()

    def end(self) -> None:
        self._http.close()
        for sign in (signal.SIGCONT, signal.SIGKILL):
            self.process.send_signal(sign)
        self.process.wait()


@contextmanager
def running(cluster: Cluster, log: Path) -> Iterator[Server]:
    server = Server(cluster, log)
    try:
        until(lambda: server.get("/status"))
        yield server
    finally:
        server.end()


def test_one_acts_and_the_other_takes_over_when_it_is_frozen_or_killed(tmp_path: Path) -> None:
    with postgres() as database, ExitStack() as stack:
        cluster = replace(make_cluster(tmp_path), database_url=database.database())
        cluster.save()
        first, second = (
            stack.enter_context(
                running(replace(cluster, server_url=f"http://127.0.0.1:{port}"), tmp_path / f"{port}.log")
            )
            for port in free_ports(2)
        )
        until(lambda: first.get("/status")["acts"])
        assert second.get("/status")["acts"] is False

        # Either takes a submission, and it is one job.
        job = second.submit("docs")
        assert (job["state"], job["created"]) == ("QUEUED", True)
        assert first.submit("docs")["created"] is False
        assert [found["id"] for found in first.get("/jobs")["jobs"]] == [job["id"]]

        first.process.send_signal(signal.SIGSTOP)
        until(lambda: second.get("/status")["acts"])
        first.process.send_signal(signal.SIGCONT)
        until(lambda: first.get("/status").get("acts") is False)
        assert second.get("/status")["acts"] is True
        assert "another server acts" in first.log.read_text()

        second.process.kill()
        second.process.wait()
        until(lambda: first.get("/status")["acts"])
        assert first.get("/status")["jobs"] == {"QUEUED": 1}
