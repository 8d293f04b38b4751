"""What `tandem doctor` is told: each fault with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from stand_ins.http_server import serving
from stand_ins.world import World
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tandem.config.cluster import Cluster
from tandem.orchestrator.checks import Check, compare_versions, server_checks
from tandem.orchestrator.ray_jobs import HttpRayJobs

NODE = {"raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 4.0}}}


def ray_of(cluster: Cluster, answer: Callable[[httpx.Request], httpx.Response]) -> HttpRayJobs:
    return HttpRayJobs(cluster, transport=httpx.MockTransport(answer))


def answers(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/api/v0/cluster_metadata":
        return httpx.Response(200, json={"data": {"rayVersion": "2.60.0", "pythonVersion": "3.11.9"}})
    return httpx.Response(200, json={"data": {"summary": [NODE]}})


def checked(
    world: World, answer: Callable[[httpx.Request], httpx.Response] = answers, **changed: object
) -> dict[str, Check]:
    cluster = replace(world.cluster, **changed)  # type: ignore[arg-type]
    return {check.name: check for check in server_checks(cluster, world.records, ray_of(cluster, answer))}


def test_all_is_well(world: World) -> None:
    found = checked(world)
    assert set(found) == {"database", "storage", "disk", "ray", "mlflow", "qdrant"}
    assert {name: check.result for name, check in found.items() if name != "disk"} == {
        "database": "ok", "storage": "ok", "ray": "ok", "mlflow": "ok", "qdrant": "ok",
    }  # fmt: skip
    assert found["ray"].found == "1 nodes, 4 CPUs, 0 GPUs"
    assert not list(world.cluster.storage.glob("*.probe"))


def refuse(request: httpx.Request) -> httpx.Response:
    return httpx.Response(401)


def silent(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def empty(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"data": {"summary": []}})


@pytest.mark.parametrize(
    ("answer", "said"), [(refuse, "Ray refuses our token"), (silent, "doesn't answer"), (empty, "0 nodes")]
)
def test_ray_that_is_away_or_refuses(
    world: World, answer: Callable[[httpx.Request], httpx.Response], said: str
) -> None:
    check = checked(world, answer)["ray"]
    assert (check.result, said in check.found) == ("bad", True)
    assert check.remedy


def test_a_storage_folder_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    check = checked(world, storage=tmp_path / "gone")["storage"]
    assert (check.result, "No such file" in check.found) == ("bad", True)


def test_a_database_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    def away() -> dict[str, int]:
        raise OperationalError("select", {}, Exception("connection refused"))

    monkeypatch.setattr(world.records, "counts", away)
    check = checked(world, database_url="postgresql://me:pw@db/tandem")["database"]
    assert (check.result, "connection refused" in check.found, "pw" in check.found) == ("bad", True, False)


def test_servers_of_mlflow_and_qdrant(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def collections(request: Request) -> JSONResponse:
        return JSONResponse({}, status_code=200 if request.headers.get("api-key") == "right" else 403)

    routes = [Route("/health", lambda _: JSONResponse({})), Route("/collections", collections)]
    with serving(Starlette(routes=routes)) as url:
        asked = {"mlflow_uri": url, "qdrant_url": url, "qdrant_api_key_env": "QDRANT_KEY"}
        found = checked(world, **asked)
        assert (found["mlflow"].result, found["qdrant"].result) == ("ok", "bad")
        assert "no variable QDRANT_KEY" in found["qdrant"].found
        monkeypatch.setenv("QDRANT_KEY", "wrong")
        assert "answers 403" in checked(world, **asked)["qdrant"].found
        monkeypatch.setenv("QDRANT_KEY", "right")
        assert checked(world, **asked)["qdrant"].result == "ok"
    found = checked(world, **asked)
    assert (found["mlflow"].result, found["qdrant"].result) == ("warn", "bad")
    assert "doesn't answer: ConnectError" in found["qdrant"].found


def test_versions_of_all_sides(world: World) -> None:
    fine = {"tandem": "1", "python": "3.11.4", "ray": "2.60.0"}
    assert ray_of(world.cluster, answers).versions() == {"ray": "2.60.0", "python": "3.11.9"}
    assert ray_of(world.cluster, silent).versions() == {}
    for side, changed, bad in [
        ("client", {}, set()),
        ("client", {"tandem": "2"}, {"tandem versions"}),
        ("cluster", {"ray": "2.59.0"}, {"ray versions"}),
        ("cluster", {"python": "3.12.1"}, {"python versions"}),
    ]:
        sides = {name: {**fine, **(changed if name == side else {})} for name in ("client", "server", "cluster")}
        checks = list(compare_versions(sides["client"], sides["server"], sides["cluster"]))
        assert {check.name for check in checks if check.result == "bad"} == bad
        assert all(check.remedy for check in checks if check.result == "bad")
    assert [check.name for check in compare_versions(fine, fine, {})] == ["tandem versions"]
