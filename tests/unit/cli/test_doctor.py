"""`tandem doctor` against a server: what it says of itself, what of versions, and what where nothing answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from stand_ins.http_server import serving
from stand_ins.shell import FakeServe, Shell

import tandem
from tandem.cli import doctor
from tandem.server.app import create_app

NODE = {"raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 4.0}}}


def ray(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/api/v0/cluster_metadata":
        return httpx.Response(200, json={"data": {"rayVersion": "2.59.0", "pythonVersion": "3.11.1"}})
    return httpx.Response(200, json={"data": {"summary": [NODE]}})


def examined(shell: Shell) -> tuple[int, dict[str, dict[str, Any]]]:
    result = shell("doctor", "--json")
    return result.exit_code, {check["name"]: check for check in json.loads(result.stdout)}


def test_both_sides_are_looked_at(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    world = shell.world
    deployer = world.deployer(ray)
    world.cluster.api_key_file.chmod(0o600)
    with serving(create_app(world.records, world.orchestrator, deployer, world.keys())) as url:
        replace(world.cluster, server_url=url).save()
        status, found = examined(shell)
        assert {"python", "torch", "compiler", "disk", "/dev/shm", "server", "database", "mlflow"} <= set(found)
        assert found["storage"]["result"] == found["tandem versions"]["result"] == "ok"
        assert found["ray versions"]["result"] == "bad"
        assert "cluster 2.59.0" in found["ray versions"]["found"]
        assert (found["ports"]["result"], "1 (dashboard)" in found["ports"]["found"]) == ("bad", True)
        assert status == 1
        monkeypatch.setattr(doctor, "here", lambda: {"tandem": "0.0.9", "python": "3.11.0"})
        _, found = examined(shell)
        assert found["tandem versions"]["found"] == f"client 0.0.9, server {tandem.__version__}"
        assert found["tandem versions"]["remedy"]
        world.cluster.api_key_file.write_text("wrong\n")
        _, found = examined(shell)
        assert "refuses this API key" in found["server"]["found"]


def test_keys_of_a_cluster_that_is_not_ours_must_only_be_readable(shell: Shell, tmp_path: Path) -> None:
    # As Kubernetes mounts a secret: another's, readable by its group, and nobody here may change it.
    attached = replace(shell.world.cluster, local=False)
    mounted = tmp_path / "mounted"
    for path in (attached.api_key_file, mounted):
        path.write_text("key")
        path.chmod(0o640)
    elsewhere = replace(attached, api_key_file=mounted)
    # What `tandem up` made in the storage folder is still to be private.
    assert [doctor._tokens(cluster)[0].result for cluster in (attached, elsewhere)] == ["bad", "ok"]
    mounted.unlink()
    assert (doctor._tokens(elsewhere)[0].result, doctor._tokens(elsewhere)[0].found) == ("bad", "not there")


def test_nothing_answers(shell: Shell) -> None:
    assert isinstance(shell.serve, FakeServe)
    status, found = examined(shell)
    assert status == 1
    for name in ("server", "ray", "ports"):
        assert found[name]["result"] == "bad"
        assert "tandem up" in found[name]["remedy"]
    assert all(check["remedy"] for check in found.values() if check["result"] != "ok")
