"""Fine-tuned models over HTTP: who may promote, and what is said where Ray Serve is down."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from stand_ins.models import GOOD, Bench, make_model
from stand_ins.world import World

from tandem.orchestrator.roles import Role, ServerKeys
from tandem.server.app import create_app

UP = {"kind": "promote", "name": "up", "model": "artifact:tuned"}
PIPELINE = {"kind": "pipeline", "name": "weekly", "steps": {"up": {"spec": UP}}}


@pytest.fixture
def bench(world: World) -> Bench:
    made = Bench(world)
    made.deploy()
    made.version("v-1", skill=GOOD)
    return made


@pytest.fixture
def serving(world: World, bench: Bench, keys: ServerKeys) -> TestClient:
    """With an endpoint."""
    app = create_app(world.records, world.orchestrator, bench.deployer, keys)
    return TestClient(app, headers={"Authorization": "Bearer secret-key"})


def test_models_are_listed_where_ray_serve_is_down(client: TestClient, bench: Bench) -> None:
    (found,) = client.get("/api/v1/models").json()
    assert (found["version"], found["serving"], found["standing"]["report"]) == ("v-1", None, "c-v-1")
    response = client.post("/api/v1/models/tuned/promote", json={})
    assert (response.status_code, response.json()["error"]["type"]) == (502, "UnreachableError")


def test_what_was_promoted_is_on_record_with_whose_key(serving: TestClient) -> None:
    made = serving.post("/api/v1/models/tuned/promote", json={"canary": 0.5}).json()
    assert (made["app"], made["version"], made["share"], made["refusals"]) == ("rag", "v-1", 0.5, [])
    newest, _ = serving.get("/api/v1/apps/rag/releases").json()
    assert (newest["act"], newest["by"], newest["facts"]["version"]) == ("canary", "ada", "v-1")
    assert serving.post("/api/v1/models/tuned/rollback", json={}).json()["was"] == "v-1"
    assert serving.get("/api/v1/apps/nobody/releases").json() == []


def test_what_the_rules_refuse_is_a_conflict(serving: TestClient, bench: Bench) -> None:
    make_model(bench.storage, "tuned", "v-2")
    response = serving.post("/api/v1/models/tuned/promote", json={"version": "v-2"})
    assert (response.status_code, response.json()["error"]["type"]) == (409, "NotPromotedError")
    assert serving.post("/api/v1/models/tuned/promote", json={"version": "../v-1"}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/models/tuned/promote", {}),
        ("/api/v1/models/tuned/rollback", {}),
        ("/api/v1/jobs", {"spec": UP}),
        ("/api/v1/jobs", {"spec": PIPELINE}),
    ],
)
def test_only_admins_change_what_answers(
    serving: TestClient, world: World, bench: Bench, keys: ServerKeys, path: str, body: dict[str, Any]
) -> None:
    before = bench.spec()
    headers = {"Authorization": f"Bearer {keys.add('bob', Role.SUBMITTER)[0]}"}
    response = serving.post(path, json=body, headers=headers)
    assert (response.status_code, response.json()["error"]["type"]) == (403, "ForbiddenError")
    assert (bench.spec(), world.records.find()) == (before, [])
