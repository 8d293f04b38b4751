"""Server-sent events: everything that happens to a job once, in order, across a break."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from stand_ins.world import World

from tandem.server import following


def told(client: TestClient, job_id: str, query: str = "", last: str | None = None) -> list[tuple[str, str, Any]]:
    """(kind, id, data) of every event until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": last}
    response = client.get(f"/api/v1/jobs/{job_id}/events{query}", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in response.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return events


def words(events: list[tuple[str, str, Any]]) -> list[str]:
    """What a reader sees of them."""
    said = {"state": lambda data: data["state"], "log": lambda data: data["text"], "end": lambda _: "end"}
    return [said[kind](data) for kind, _, data in events if kind in said]


def test_a_job_is_told_from_its_submission_to_its_end(client: TestClient, world: World) -> None:
    job = world.submit()
    events = told(client, job.id)
    assert words(events) == [
        "QUEUED", "STARTING", "docs works\n", "RUNNING", "docs is done\n", "SUCCEEDED", "end",
    ]  # fmt: skip
    assert events[-1][2]["state"] == "SUCCEEDED"
    # By its name, and after its end: all of it again, at once.
    assert "".join(words(told(client, "docs"))) == "docs works\ndocs is done\nQUEUEDSTARTINGRUNNINGSUCCEEDEDend"
    assert words(told(client, job.id, "?logs=false")) == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED", "end"]


def test_after_a_break_nothing_is_told_twice_or_left_out(client: TestClient, world: World) -> None:
    whole = told(client, world.submit().id)
    for number in range(len(whole) - 1):
        rest = told(client, "docs", last=whole[number][1])
        assert words(rest)[-1] == "end"
        for kind in ("state", "log"):
            seen = [event for event in whole[: number + 1] + rest if event[0] == kind]
            assert "".join(words(seen)) == "".join(words([event for event in whole if event[0] == kind]))


def test_progress_is_told_when_it_changes(client: TestClient, world: World, app: FastAPI) -> None:
    job = world.submit()
    world.turn()
    world.turn()
    world.write(job, "progress.json", {"phase": "embed", "done": 1, "total": 2, "figures": {}})
    events = told(client, job.id)
    assert [data["done"] for kind, _, data in events if kind == "progress"] == [1]


def test_a_stream_may_have_a_time_limit(client: TestClient, world: World) -> None:
    assert words(told(client, world.submit().id, "?for_s=0")) == ["QUEUED"]


def test_a_long_log_comes_in_parts(client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.submit()
    world.turn()
    text = "é" * 1_200_000
    world.ray.set(f"{job.id}.1", "RUNNING", printed=text)
    parts = [data["text"] for kind, _, data in told(client, job.id) if kind == "log"]
    assert len(parts) > 2
    assert "".join(parts) == text + "docs works\n" + "docs is done\n"


@pytest.mark.parametrize("last", ["x", "1", "1.2.3", "-1.0", "1." + "9" * 19])
def test_an_id_that_no_event_has_is_refused(client: TestClient, world: World, last: str) -> None:
    job = world.submit()
    assert client.get(f"/api/v1/jobs/{job.id}/events", headers={"Last-Event-ID": last}).status_code == 422


def test_unknown_jobs_have_no_stream(client: TestClient) -> None:
    response = client.get("/api/v1/jobs/nope/events")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "NotFoundError")


def test_a_position_is_read_as_it_is_written() -> None:
    position = following.Position(3, 4096)
    assert following.Position.parse(str(position)) == position
