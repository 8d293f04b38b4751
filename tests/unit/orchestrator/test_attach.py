"""Attaching to a Ray dashboard elsewhere: a stand-in of it, and a real server process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.errors import AuthError, UnreachableError
from tandem.orchestrator.executor import entrypoint, job_environment
from tandem.orchestrator.local import Marks, answers, down, up
from tandem.orchestrator.processes import marked
from tandem.specs import ClusterSpec

TOKEN = "the-token"


class Dashboard(BaseHTTPRequestHandler):
    """What is asked of a Ray dashboard before the first job."""

    def do_GET(self) -> None:
        granted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        nodes = {"data": {"summary": [{"raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 8.0}}}]}}
        body = {"ray_version": "2.60.0"} if self.path == "/api/version" else nodes
        self.send_response(200 if granted else 403)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def spec(tmp_path: Path, address: str, token: str) -> ClusterSpec:
    (tmp_path / "token").write_text(token)
    ports = {"server": 0, "endpoint": 0}
    return ClusterSpec.model_validate({"address": address, "ray_token_file": str(tmp_path / "token"), "ports": ports})


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STORAGE_VARIABLE, str(tmp_path / "store"))
    return tmp_path / "store"


def test_only_the_server_starts_and_down_stops_it_alone(tmp_path: Path, storage: Path, dashboard: str) -> None:
    done = up(spec(tmp_path, dashboard, TOKEN))
    try:
        assert done.started == ("server",)
        assert answers(done.cluster.server_url)
        assert Cluster.load() == done.cluster
        assert (done.cluster.local, done.cluster.dashboard_url) == (False, dashboard)
        assert up(spec(tmp_path, dashboard, TOKEN)).started == ()
        # Nodes elsewhere have their own interpreter, head and token.
        assert entrypoint(done.cluster, Path("/j")) == "exec python -m tandem.runner /j"
        assert job_environment(done.cluster) == {STORAGE_VARIABLE: str(storage)}
    finally:
        assert down() is True
    assert marked(Marks.of(storage).server) == []
    assert not answers(done.cluster.server_url)
    assert down() is False


@pytest.mark.parametrize(
    ("address", "token", "error"),
    [("DASHBOARD", "wrong", AuthError), ("http://127.0.0.1:9", TOKEN, UnreachableError)],
)
def test_a_cluster_that_refuses_or_is_not_there_leaves_nothing_up(
    tmp_path: Path, storage: Path, dashboard: str, address: str, token: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        up(spec(tmp_path, address.replace("DASHBOARD", dashboard), token))
    assert not (storage / "cluster.json").exists()
    assert marked(Marks.of(storage).server) == []
