from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from stand_ins.world import make_cluster

from tandem.errors import ConflictError, InputError
from tandem.orchestrator.controller import Policy
from tandem.orchestrator.local import Marks, down, up
from tandem.orchestrator.processes import MARK, alone, end, free_port, free_ports, marked, port_in_use
from tandem.orchestrator.ray_head import HAPROXY_PATH_MAX, haproxy_environment, head_command, head_environment
from tandem.orchestrator.secrets import make_secrets
from tandem.orchestrator.settings import ServerSettings
from tandem.specs import ClusterSpec


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield int(server.getsockname()[1])


def test_a_port_in_use_is_told_before_anything_is_written(
    tmp_path: Path, listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TANDEM_STORAGE", raising=False)
    storage = tmp_path / "store"
    ports = {"gcs": 0, "dashboard": listening, "server": 0, "endpoint": 0}
    spec = ClusterSpec.model_validate({"storage": str(storage), "ports": ports})
    with pytest.raises(InputError, match=rf"in use: port {listening} \(dashboard\)") as raised:
        up(spec)
    assert "ports: {dashboard: 0}" in str(raised.value)
    assert not storage.exists()


def test_one_up_at_a_time_starts_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TANDEM_STORAGE", raising=False)
    storage = tmp_path / "store"
    spec = ClusterSpec.model_validate({"storage": str(storage)})
    lock = Marks.of(storage).temp_dir.with_suffix(".lock")
    hold = "import sys; from pathlib import Path; from tandem.orchestrator.processes import alone\n"
    hold += "with alone(Path(sys.argv[1])) as first: print(first, flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        with pytest.raises(ConflictError, match="another `tandem up`") as refused:
            up(spec)
        assert refused.value.where == str(storage)
        assert not storage.exists()
    finally:
        other.kill()
        other.communicate()
    # Whoever was killed holds nothing.
    with alone(lock) as first:
        assert first
    lock.unlink()


def test_down_with_nothing_up_stops_nothing(tmp_path: Path) -> None:
    assert down(tmp_path) is False


def test_down_needs_no_readable_cluster_file(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text('{"storage": "of another version"}')
    assert down(tmp_path) is False
    assert not (tmp_path / "cluster.json").exists()


def test_free_and_taken_ports(listening: int) -> None:
    assert port_in_use(listening)
    port = free_port([listening])
    assert port != listening
    assert not port_in_use(port)


def test_a_port_that_is_bound_later_is_none_that_an_outgoing_connection_may_take() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = free_ports(20)
    assert len(set(found)) == 20
    assert not [port for port in found if first <= port <= last]
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", found[0]))
        assert found[0] not in free_ports(20)


def test_only_marked_processes_and_their_children_are_found_and_ended() -> None:
    sleep = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{sleep}'], env={{}}); {sleep}"
    mine = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: "unit-test-mark"})
    other = subprocess.Popen([sys.executable, "-c", sleep], env={**os.environ, MARK: "other"})
    try:
        deadline = time.monotonic() + 20
        # The child has no environment at all, as one whose title was rewritten.
        while len(marked("unit-test-mark")) < 2 and time.monotonic() < deadline:
            mine.poll()
        found = marked("unit-test-mark")
        assert len(found) == 2
        assert mine.pid in {process.pid for process in found}
        assert end(found) == []
        assert marked("unit-test-mark") == []
        assert psutil.pid_exists(other.pid)
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_secrets_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path)
    cluster.api_key_file.unlink()
    make_secrets(cluster)
    key = cluster.api_key()
    make_secrets(cluster)
    assert cluster.api_key() == key
    assert len(key) > 40
    assert stat.S_IMODE(cluster.api_key_file.stat().st_mode) == 0o600
    tenants = json.loads((tmp_path / "api-keys.json").read_text())
    assert list(tenants.values()) == ["*"]
    assert key not in (tmp_path / "api-keys.json").read_text()


def test_the_server_reads_the_settings_that_were_written(tmp_path: Path) -> None:
    queue = {"quotas": {"nlp": {"CPU": 8}, "*": {"GPU": 1}}, "reserved": {"CPU": 1}, "passing_s": 5}
    spec = ClusterSpec.model_validate({"retry": "never", "max_attempts": 2, "cpus": 3, "queue": queue})
    settings = ServerSettings.of(spec, make_cluster(tmp_path))
    assert settings.policy == Policy(retry=False, max_attempts=2)
    assert (settings.rules.quotas, settings.rules.reserved) == (queue["quotas"], queue["reserved"])
    assert (settings.rules.passing_s, settings.rules.shared_cpus) == (5, 3)
    assert ServerSettings.load(settings.save()) == settings
    # What isn't ours has no endpoint of ours to be kept free for.
    elsewhere = replace(settings.cluster, local=False, grows_to={"GPU": 8.0})
    settings = ServerSettings.of(spec, elsewhere)
    assert settings.rules.shared_cpus is None
    assert ServerSettings.load(settings.save()) == settings


def test_sockets_fit_however_long_the_storage_path_is(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 200)
    marks = Marks.of(deep)
    assert marks == Marks.of(deep)
    assert marks != Marks.of(tmp_path)
    assert len(str(marks.temp_dir / "h")) <= HAPROXY_PATH_MAX
    assert haproxy_environment(marks.temp_dir / "h")["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    # Better the slower way in than none.
    assert haproxy_environment(deep) == {}


def test_the_head_listens_on_loopback_with_a_token_and_is_told_of_no_other_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cluster = make_cluster(tmp_path)
    command = head_command(cluster, tmp_path / "t", 4)
    assert "--dashboard-host=127.0.0.1" in command
    assert "--num-cpus=4" in command
    environment = head_environment(cluster, "mark", tmp_path / "t")
    assert "RAY_ADDRESS" not in environment
    assert environment[MARK] == "mark"
    assert environment["TANDEM_STORAGE"] == str(tmp_path)
