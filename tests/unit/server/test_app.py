from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from stand_ins.world import World, index_spec

from tandem import errors
from tandem.errors import TandemError
from tandem.orchestrator.roles import Role, ServerKeys
from tandem.server.faults import STATUSES


def submit(client: TestClient, name: str = "docs", **body: Any) -> Any:
    return client.post("/api/v1/jobs", json={"spec": index_spec(name), **body}).json()


def listed(client: TestClient, query: str = "") -> Any:
    return client.get(f"/api/v1/jobs{query}").json()["jobs"]


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
    assert [job["id"] for job in listed(client)] == [f"{first['id']}-2", first["id"]]


def test_the_list_is_filtered(client: TestClient) -> None:
    submit(client, "a")
    submit(client, "b")
    assert [job["name"] for job in listed(client, "?name=b")] == ["b"]
    assert listed(client, "?state=RUNNING&state=FAILED") == []
    assert len(listed(client, "?state=QUEUED&kind=index&limit=1")) == 1
    assert client.get("/api/v1/jobs?state=NOPE").status_code == 422


def test_bad_specs_are_refused_with_their_fields(client: TestClient) -> None:
    spec = {"kind": "index", "name": "a", "sources": ["x"], "typo": 1, "chunk": {"tokens": "many"}}
    response = client.post("/api/v1/jobs", json={"spec": spec})
    assert response.status_code == 422
    assert response.json()["error"]["type"] == "InvalidSpecError"
    said = response.json()["error"]["what"].splitlines()
    assert [line.split(":")[0] for line in said] == ["chunk.tokens", "typo"]
    response = client.post("/api/v1/jobs", json={"spec": {"kind": "cluster"}})
    assert "'cluster'" in response.json()["error"]["what"]
    assert "'index'" in response.json()["error"]["what"]
    assert listed(client) == []


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
    assert listed(client) == []
    known = world.submit("wide", embedder=wide)
    assert client.post("/api/v1/jobs", json=body).json()["id"] == known.id
    assert client.post("/api/v1/jobs", json={**body, "again": True}).status_code == 400


def test_a_job_says_why_it_waits_and_how_it_is_queued(client: TestClient, world: World) -> None:
    first, second = (submit(client, name) for name in ("a", "b"))
    spec = index_spec("c", queue={"project": "nlp", "priority": -2})
    third = client.post("/api/v1/jobs", json={"spec": spec}).json()
    assert (third["project"], third["priority"], third["waits"]) == ("nlp", -2, None)
    world.orchestrator.step()
    waits = {job["id"]: job["waits"] for job in listed(client)}
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


def test_jobs_come_in_pages(client: TestClient, world: World) -> None:
    ids = [world.submit(f"n{number}").id for number in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = client.get(f"/api/v1/jobs?limit=2{cursor}").json()
        assert len(page["jobs"]) <= 2
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
        # What is submitted meanwhile comes first, and moves no page.
        world.submit(f"later-{len(seen)}")
    assert seen == ids[::-1]
    assert client.get("/api/v1/jobs?limit=1001").status_code == 422


def test_a_job_says_who_submitted_it_and_is_found_by_that(client: TestClient, keys: ServerKeys, world: World) -> None:
    others = {"Authorization": f"Bearer {keys.add('bob', Role.SUBMITTER)[0]}"}
    first = submit(client)
    spec = index_spec("mine", queue={"project": "nlp"})
    second = client.post("/api/v1/jobs", json={"spec": spec, "origin": {"git_commit": "abc"}}, headers=others).json()
    assert (first["user"], second["user"]) == ("ada", "bob")
    assert [job["id"] for job in listed(client, "?user=bob")] == [second["id"]]
    assert [job["id"] for job in listed(client, "?project=nlp")] == [second["id"]]
    assert [job["id"] for job in listed(client, "?project=default")] == [first["id"]]
    assert client.get(f"/api/v1/jobs/{second['id']}").json()["origin"] == {"git_commit": "abc"}
    world.orchestrator.step()
    metadata = world.ray.metadata[f"{second['id']}.1"]
    assert {"name": "mine", "kind": "index", "project": "nlp", "user": "bob"}.items() <= metadata.items()
    world.now += 60
    submit(client, "late")
    assert [job["name"] for job in listed(client, "?since=1970-01-12T13:47:00Z")] == ["late"]
    assert len(listed(client, "?since=1970-01-12T13:46:00%2B00:00")) == 3
    assert client.get("/api/v1/jobs?since=yesterday").status_code == 422


def test_another_spec_of_the_same_name_is_another_job_and_says_so(client: TestClient) -> None:
    first = submit(client)
    second = client.post("/api/v1/jobs", json={"spec": index_spec("docs", chunk={"tokens": 99})}).json()
    assert second["created"] is True
    assert second["same_name"] == [first["id"]]
    # The same spec once more is no other one.
    assert submit(client, again=True)["same_name"] == [second["id"]]


def test_what_has_ended_cannot_be_stopped(client: TestClient, world: World) -> None:
    job = submit(client)
    for _ in range(3):
        world.turn()
    response = client.post(f"/api/v1/jobs/{job['id']}/stop")
    assert response.status_code == 409
    assert response.json()["error"]["what"] == f"{job['id']} can't be stopped: it has ended already, and is SUCCEEDED"
    stopped = submit(client, "other")
    for _ in range(2):
        assert client.post(f"/api/v1/jobs/{stopped['id']}/stop").status_code == 200
        world.orchestrator.step()


def test_a_job_is_shown_with_what_it_took_and_where_to_look(client: TestClient, world: World) -> None:
    job = submit(client)
    for _ in range(3):
        world.turn()
    folder = world.orchestrator.files(job["id"]).path
    (folder / "environment-1.json").write_text(json.dumps({"ray": "2.60.0"}))
    (folder / "mlflow-run.json").write_text(json.dumps({"run_id": "r1", "experiment_id": "7"}))
    shown = client.get(f"/api/v1/jobs/{job['id']}").json()
    assert shown["needs"] == {"CPU": 2.0}
    assert shown["used"] == pytest.approx({"CPU": 2 * 2 / 3600})
    (attempt,) = shown["attempts"]
    assert attempt["environment"] == {"ray": "2.60.0"}
    assert attempt["dashboard"] == f"http://127.0.0.1:1/#/jobs/{job['id']}.1"
    assert shown["mlflow"].endswith("#/experiments/7/runs/r1")


def test_somebody_else_cannot_have_a_waiting_job_queued_otherwise(
    client: TestClient, keys: ServerKeys, world: World
) -> None:
    eve, bob = ({"Authorization": f"Bearer {keys.add(name, Role.SUBMITTER)[0]}"} for name in ("eve", "bob"))

    def send(token: str, priority: int, headers: dict[str, str]) -> Any:
        spec = index_spec("docs", runtime={"env": {"WORD": None}}, queue={"priority": priority})
        return client.post("/api/v1/jobs", json={"spec": spec, "secrets": {"WORD": token}}, headers=headers).json()

    first = send("hers", 1, eve)
    his = send("his", -5, bob)
    assert (his["id"], his["user"], his["created"], his["priority"]) == (first["id"], "eve", False, 1)
    assert world.orchestrator.secrets.of(first["id"]) == {"WORD": "hers"}
    assert send("new", 2, eve)["priority"] == 2
    assert send("newest", 3, {})["priority"] == 3
    assert world.orchestrator.secrets.of(first["id"]) == {"WORD": "newest"}
