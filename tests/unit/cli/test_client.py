"""The client's connection: broken, taken up again where it broke, given up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from stand_ins.world import make_cluster

from tandem.cli import client as module
from tandem.cli.client import API_KEY_VARIABLE, Client, Event
from tandem.errors import AuthError, DatabaseError, ForbiddenError, NotFoundError, UnreachableError


def stream(*events: tuple[str, str, dict[str, object]], then: type[Exception] | None = None) -> httpx.Response:
    class Parts(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for kind, identifier, data in events:
                yield f"event: {kind}\ndata: {json.dumps(data)}\nid: {identifier}\n\n".encode()
                yield b": ping\n\n"
            if then is not None:
                raise then("broken off")

    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Parts())


def client_of(tmp_path: Path, answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client(make_cluster(tmp_path), transport=httpx.MockTransport(answer), pause=lambda _: None)


def test_what_was_broken_off_goes_on_behind_the_last_event(tmp_path: Path) -> None:
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        if len(asked) == 1:
            return stream(("state", "1.0", {"state": "QUEUED"}), then=httpx.ReadError)
        if len(asked) == 2:
            raise httpx.ConnectError("it is started again")
        if len(asked) == 3:
            return stream(("log", "1.5", {"text": "hello"}))  # a server that ends in good order
        return stream(("end", "2.5", {"state": "SUCCEEDED"}))

    events = list(client_of(tmp_path, answer).events("j"))
    assert [event.kind for event in events] == ["state", "log", "end"]
    assert asked == [None, "1.0", "1.0", "1.5"]


def test_a_server_that_does_not_come_back_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_FOR_S", 0.0)
    answers = iter([stream(("state", "1.0", {}), then=httpx.ReadError)])

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(answers, None)
        if found is None:
            raise httpx.ConnectError("refused")
        return found

    seen: list[Event] = []
    with pytest.raises(UnreachableError, match="broke off"):
        seen.extend(client_of(tmp_path, answer).events("j"))


def test_a_server_that_never_answered_is_not_waited_for(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(UnreachableError):
        next(client_of(tmp_path, answer).events("j"))


def test_whoever_watches_asks_again_and_whoever_changes_something_does_not(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if len(asked) == 1:
            raise httpx.ConnectError("it is started again")
        if len(asked) == 2:
            away = {"type": "DatabaseError", "what": "away", "where": None, "remedy": None}
            return httpx.Response(503, json={"error": away})
        return httpx.Response(200, json={"id": "j"})

    client = client_of(tmp_path, answer)
    assert client.patient().job("j") == {"id": "j"}
    assert asked == ["GET"] * 3
    asked.clear()
    with pytest.raises(UnreachableError):
        client.patient().stop("j")
    with pytest.raises(DatabaseError):
        client.job("j")
    assert asked == ["POST", "GET"]


@pytest.mark.parametrize(
    ("status", "type_", "kind"),
    [(401, "AuthError", AuthError), (403, "ForbiddenError", ForbiddenError), (404, "NotFoundError", NotFoundError)],
)
def test_a_refusal_is_no_break(tmp_path: Path, status: int, type_: str, kind: type[Exception]) -> None:
    body = {"error": {"type": type_, "what": "no", "where": None, "remedy": None}}
    with pytest.raises(kind, match="no"):
        next(client_of(tmp_path, lambda _: httpx.Response(status, json=body)).events("j"))


def test_all_pages_are_read_and_no_more_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        first = 5 - 2 * int(request.url.params.get("cursor", "0"))
        ids = [{"id": number} for number in range(first, max(0, first - int(request.url.params["limit"])), -1)]
        more = int(request.url.params.get("cursor", "0")) + 1
        return httpx.Response(200, json={"jobs": ids, "next": str(more) if ids and ids[-1]["id"] > 1 else None})

    client = client_of(tmp_path, answer)
    assert [job["id"] for job in client.jobs(state=["FAILED"])] == [1, 2, 3, 4, 5]
    assert all(query["state"] == "FAILED" for query in asked)
    assert [job["id"] for job in client.jobs(limit=3)] == [3, 4, 5]


def test_a_key_of_ones_own_goes_before_the_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "mine")

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer mine"
        return httpx.Response(200, json={"version": "", "ray": True, "jobs": {}})

    client_of(tmp_path, answer).status()
