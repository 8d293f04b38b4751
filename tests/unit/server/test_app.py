from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from stand_ins.world import World, index_spec

from tandem import errors
from tandem.errors import TandemError
from tandem.orchestrator.deploy import Deployer
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.server.app import STATUSES, create_app


def serve_down(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@pytest.fixture
def client(world: World) -> TestClient:
    deployer = Deployer(world.cluster, HttpRayJobs(world.cluster, transport=httpx.MockTransport(serve_down)))
    app = create_app(world.records, world.orchestrator, deployer, api_key="secret-key")
    return TestClient(app, headers={"Authorization": "Bearer secret-key"}, raise_server_exceptions=False)


def submit(client: TestClient, name: str = "docs", **body: Any) -> Any:
    return client.post("/api/v1/jobs", json={"spec": index_spec(name), **body}).json()


def test_every_error_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TandemError)]
    for kind in kinds:
        assert any(issubclass(kind, known) for known, _ in STATUSES)


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic secret-key", "Bearer ", "secret-key"])
def test_without_the_key_nothing_is_told(client: TestClient, header: str | None) -> None:
    client.headers.pop("Authorization")
    given = {} if header is None else {"Authorization": header}
    for path in ("/api/v1/status", "/api/v1/jobs", "/api/v1/apps", "/nowhere"):
        response = client.get(path, headers=given)
        assert response.status_code == 401
        assert response.json()["error"]["type"] == "AuthError"
    assert client.get("/healthz", headers=given).json()["status"] == "ok"


def test_a_submission_is_made_once_unless_again(client: TestClient) -> None:
    first = submit(client)
    assert (first["created"], first["state"], first["reason"]) == (True, "QUEUED", "submitted")
    assert submit(client)["created"] is False
    assert submit(client)["id"] == first["id"]
    assert submit(client, again=True)["id"] == f"{first['id']}-2"
    assert submit(client)["id"] == f"{first['id']}-2"
    assert [job["id"] for job in client.get("/api/v1/jobs").json()] == [first["id"], f"{first['id']}-2"]


def test_the_list_is_filtered(client: TestClient) -> None:
    submit(client, "a")
    submit(client, "b")
    assert [job["name"] for job in client.get("/api/v1/jobs?name=b").json()] == ["b"]
    assert client.get("/api/v1/jobs?state=RUNNING&state=FAILED").json() == []
    assert len(client.get("/api/v1/jobs?state=QUEUED&kind=index&limit=1").json()) == 1
    assert client.get("/api/v1/jobs?state=NOPE").status_code == 422


def test_bad_specs_are_refused_with_their_fields(client: TestClient) -> None:
    response = client.post("/api/v1/jobs", json={"spec": {"kind": "index", "name": "a", "sources": ["x"], "typo": 1}})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "InvalidSpecError"
    assert "typo" in response.json()["error"]["what"]
    response = client.post("/api/v1/jobs", json={"spec": {"kind": "cluster"}})
    assert "isn't a kind of job" in response.json()["error"]["what"]
    assert client.get("/api/v1/jobs").json() == []


def test_a_job_is_shown_with_its_changes(client: TestClient, world: World) -> None:
    job = submit(client)
    world.orchestrator.step()
    shown = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert shown["spec"] == index_spec("docs")
    assert [event["state"] for event in shown["events"]] == ["QUEUED", "STARTING"]
    assert shown["attempts"][0]["number"] == 1
    assert shown["attempts"][0]["submission_id"] == f"{job['id']}.1"
    assert client.get("/api/v1/jobs/docs").json()["id"] == job["id"]
    missing = client.get("/api/v1/jobs/nope")
    assert missing.status_code == 404
    assert missing.json()["error"] == {
        "type": "NotFoundError",
        "what": "no job 'nope'",
        "where": None,
        "remedy": "`tandem ps` lists the jobs",
    }


def test_logs_progress_and_result(client: TestClient, world: World) -> None:
    job = submit(client)
    url = f"/api/v1/jobs/{job['id']}"
    assert client.get(f"{url}/progress").json() is None
    assert client.get(f"{url}/result").status_code == 404
    world.orchestrator.step()
    world.ray.set(f"{job['id']}.1", "RUNNING", printed="one\n")
    world.orchestrator.step()
    first = client.get(f"{url}/logs")
    assert (first.text, first.headers["X-Next-Offset"]) == ("one\n", "4")
    folder = world.orchestrator.files(job["id"]).path
    (folder / "progress.json").write_text(json.dumps({"phase": "embed", "done": 1, "total": 2, "figures": {}}))
    assert client.get(f"{url}/progress").json()["phase"] == "embed"
    (folder / "result.json").write_text(json.dumps({"chunks": 3}))
    # Not before the end is on record.
    assert client.get(f"{url}/result").status_code == 404
    world.ray.set(f"{job['id']}.1", "SUCCEEDED", printed="two\n")
    world.orchestrator.step()
    assert client.get(f"{url}/result").json() == {"chunks": 3}
    assert client.get(f"{url}/logs?offset=4").text == "two\n"
    assert client.get(f"{url}/logs?offset=-1").status_code == 422


def test_what_could_never_start_is_refused_unless_it_was_there_before(client: TestClient, world: World) -> None:
    wide = {"workers": 9}
    body = {"spec": index_spec("wide", embedder=wide)}
    response = client.post("/api/v1/jobs", json=body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "SpecError")
    assert "needs 10 CPUs, the cluster has 4 CPUs" in response.json()["error"]["what"]
    assert response.json()["error"]["where"].startswith("job wide: embedder.workers")
    assert client.get("/api/v1/jobs").json() == []
    known = world.submit("wide", embedder=wide)
    assert client.post("/api/v1/jobs", json=body).json()["id"] == known.id
    assert client.post("/api/v1/jobs", json={**body, "again": True}).status_code == 400


def test_a_job_says_why_it_waits_and_how_it_is_queued(client: TestClient, world: World) -> None:
    first, second = (submit(client, name) for name in ("a", "b"))
    spec = index_spec("c", queue={"project": "nlp", "priority": -2})
    third = client.post("/api/v1/jobs", json={"spec": spec}).json()
    assert (third["project"], third["priority"], third["waits"]) == ("nlp", -2, None)
    world.orchestrator.step()
    waits = {job["id"]: job["waits"] for job in client.get("/api/v1/jobs").json()}
    assert waits[third["id"]] == "needs 2 CPUs, 0 are free; 1st in line"
    # They start meanwhile: the next look says so.
    assert waits[first["id"]] is waits[second["id"]] is None
    world.orchestrator.step()
    assert client.get(f"/api/v1/jobs/{first['id']}").json()["waits"] == "starting for 0 s, of at most 1800 s"
    # Submitted again it is the same job, and goes first from now on.
    spec = index_spec("c", queue={"priority": 7})
    again = client.post("/api/v1/jobs", json={"spec": spec}).json()
    assert (again["id"], again["created"], again["priority"]) == (third["id"], False, 7)


def test_stop(client: TestClient, world: World) -> None:
    job = submit(client)
    assert client.post(f"/api/v1/jobs/{job['id']}/stop").json()["stop_requested"] is True
    world.orchestrator.step()
    assert client.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "STOPPED"


def test_it_serves_and_queues_while_the_head_is_down(client: TestClient, world: World) -> None:
    world.ray.down = True
    job = submit(client)
    world.orchestrator.step()
    assert client.get("/api/v1/status").json()["ray"] is False
    assert client.get("/api/v1/status").json()["jobs"] == {"QUEUED": 1}
    response = client.get("/api/v1/apps")
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "UnreachableError"
    world.ray.down = False
    world.orchestrator.step()
    assert client.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "STARTING"
