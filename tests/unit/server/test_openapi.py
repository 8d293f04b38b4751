"""The OpenAPI document is true: whatever is sent is answered as it says, and a viewer's key changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from stand_ins.shell import FakeServe
from stand_ins.world import World, index_spec, make_cluster
from starlette.types import Message

from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import Role, ServerKeys
from tandem.server.app import create_app

EXAMPLES = 15
QUICK = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
# No schema says that a job exists or fits the cluster; and numbers in quotes are taken, as in YAML.
EXCLUDED = [positive_data_acceptance, negative_data_rejection]
AUTHORIZED = {"Authorization": "Bearer secret-key"}
PATHS = [
    ("/healthz", "get"),
    ("/metrics", "get"),
    ("/api/v1/status", "get"),
    ("/api/v1/checks", "get"),
    ("/api/v1/jobs", "post"),
    ("/api/v1/jobs", "get"),
    ("/api/v1/jobs/plan", "post"),
    ("/api/v1/jobs/{job_id}", "get"),
    ("/api/v1/jobs/{job_id}/stop", "post"),
    ("/api/v1/jobs/{job_id}/logs", "get"),
    ("/api/v1/jobs/{job_id}/events", "get"),
    ("/api/v1/jobs/{job_id}/progress", "get"),
    ("/api/v1/jobs/{job_id}/result", "get"),
    ("/api/v1/packages/{sha256}", "put"),
    ("/api/v1/packages/{sha256}", "get"),
    ("/api/v1/apps", "put"),
    ("/api/v1/apps", "get"),
    ("/api/v1/apps/{name}", "delete"),
    ("/api/v1/apps/{name}/releases", "get"),
    ("/api/v1/models", "get"),
    ("/api/v1/models/{name}/promote", "post"),
    ("/api/v1/models/{name}/rollback", "post"),
    ("/api/v1/keys", "post"),
    ("/api/v1/keys", "get"),
    ("/api/v1/keys/{name}", "delete"),
]


@dataclass
class Served:
    """One server for all tests of this file: what is true of it doesn't depend on what it was sent before."""

    world: World
    keys: ServerKeys
    app: FastAPI
    schema: Any


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    cluster = make_cluster(tmp_path_factory.mktemp("served"))
    world = World(cluster, Records(cluster.database_url, clock=lambda: world.now))

    async def pause(_: float) -> None:
        world.turn()

    deployer = world.deployer(FakeServe())
    keys = world.keys()
    app = create_app(world.records, world.orchestrator, deployer, keys, pause=pause)
    yield Served(world, keys, app, schemathesis.openapi.from_asgi("/openapi.json", app, headers=AUTHORIZED))
    world.records.close()


@pytest.fixture
def app(served: Served) -> FastAPI:
    return served.app


@pytest.fixture
def world(served: Served) -> World:
    return served.world


@pytest.fixture
def keys(served: Served) -> Iterator[ServerKeys]:
    yield served.keys
    for holder in served.keys.holders():
        if holder.name != "ada":
            served.keys.revoke(holder.name)


def document(app: FastAPI) -> dict[str, Any]:
    found: dict[str, Any] = TestClient(app).get("/openapi.json", headers=AUTHORIZED).json()
    return found


def test_every_route_is_in_it(app: FastAPI) -> None:
    assert sorted((path, method) for path, item in document(app)["paths"].items() for method in item) == sorted(PATHS)


def test_it_is_for_those_who_have_a_key(app: FastAPI) -> None:
    assert TestClient(app).get("/openapi.json").status_code == 401
    assert document(app)["security"] == [{"key": []}]


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "method"), PATHS)
def test_whatever_is_sent_is_answered_as_documented(
    served: Served, keys: ServerKeys, path: str, method: str, mode: GenerationMode
) -> None:
    world = served.world
    operation = served.schema[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters or operation.query):
        return
    ids = [world.submit(name).id for name in ("a", "b")]
    for _ in range(2):
        world.turn()

    @given(case=operation.as_strategy(generation_mode=mode), job_id=st.sampled_from(ids))
    @QUICK
    def send(case: Any, job_id: str) -> None:
        if mode is GenerationMode.POSITIVE and "job_id" in (case.path_parameters or {}):
            case.path_parameters["job_id"] = job_id
        case.call_and_validate(headers=AUTHORIZED, excluded_checks=EXCLUDED)

    send()


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_a_viewer_changes_nothing(served: Served, world: World, keys: ServerKeys, path: str, method: str) -> None:
    viewer = {"Authorization": f"Bearer {keys.add('eve', Role.VIEWER)[0]}"}
    job = world.submit()
    before = state_of(world, keys)
    operation = served.schema[path][method]

    @given(case=operation.as_strategy())
    @QUICK
    def send(case: Any) -> None:
        if "job_id" in (case.path_parameters or {}):
            case.path_parameters["job_id"] = job.id
        response = case.call(headers=viewer)
        if method != "get":
            assert response.status_code == 403
            assert response.json()["error"]["type"] == "ForbiddenError"
            assert state_of(world, keys) == before

    if path.endswith("/events"):
        # While it is followed the cluster goes on, which isn't the follower's doing.
        return
    send()
    assert state_of(world, keys) == before


def state_of(world: World, keys: ServerKeys) -> tuple[Any, ...]:
    jobs = world.records.find()
    files = sorted(str(path) for path in world.cluster.storage.rglob("*") if path.suffix not in (".db-wal", ".db-shm"))
    return jobs, files, keys.holders()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_viewer_is_refused_on_paths_that_nobody_thought_of(app: FastAPI, keys: ServerKeys, method: str) -> None:
    key, _ = keys.add("eve", Role.VIEWER)
    response = TestClient(app).request(method, "/api/v2/anything", headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 403


@pytest.mark.parametrize(("path", "method"), [pair for pair in PATHS if pair[0] != "/healthz"])
@pytest.mark.parametrize("key", ["", "wrong", "revoked"])
def test_without_a_valid_key_nothing_is_told_or_done(
    app: FastAPI, world: World, keys: ServerKeys, path: str, method: str, key: str
) -> None:
    if key == "revoked":
        key, _ = keys.add("bob", Role.ADMIN)
        assert TestClient(app).get("/api/v1/status", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        keys.revoke("bob")
    before = state_of(world, keys)
    response = TestClient(app).request(method, path, headers={"Authorization": f"Bearer {key}"} if key else {})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert set(response.json()["error"]) == {"type", "what", "where", "remedy"}
    assert state_of(world, keys) == before


SPEC = index_spec("docs")
MALFORMED: list[tuple[bytes, int]] = [
    (b"", 422),
    (b"{", 422),
    (b'{"spec": "\xff"}', 400),
    (b"null", 422),
    (b"[" * 100_000, 400),
    (json.dumps({"spec": {**SPEC, "revision": "\ud800"}}).encode(), 422),
    (json.dumps({"spec": {**SPEC, "\ud800": 1}}).encode(), 422),
    (json.dumps({"spec": {**SPEC, "max_quarantined": float("nan")}}).encode(), 422),
    (json.dumps({"spec": {**SPEC, "queue": {"max_run_s": float("inf")}}}).encode(), 422),
    (json.dumps({"spec": {**SPEC, "queue": {"priority": 10**400}}}).encode(), 422),
    (json.dumps({"spec": {**SPEC, "name": "a" * 41}}).encode(), 422),
    (json.dumps({"spec": {**SPEC, "sources": ["x" * 2**20]}}).encode(), 413),
]


@pytest.mark.parametrize(("body", "status"), MALFORMED, ids=lambda value: repr(value)[:40])
def test_a_malformed_or_oversized_submission_is_refused(app: FastAPI, world: World, body: bytes, status: int) -> None:
    before = world.records.counts()
    client = TestClient(app, headers=AUTHORIZED, raise_server_exceptions=False)
    response = client.post("/api/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert response.json()["error"]["what"]
    assert world.records.counts() == before


def test_a_body_that_does_not_say_how_long_it_is_is_cut_off(app: FastAPI) -> None:
    received = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal received
        received += 2**16
        assert received < 2**24, "it is read and read"
        return {"type": "http.request", "body": b" " * 2**16, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer secret-key"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/jobs", "headers": headers, "query_string": b""}
    anyio.run(app, scope, receive, send)
    assert sent[0]["status"] == 413
