"""A stand-in for a Qdrant server: its REST paths over HTTP, with qdrant-client's own models and in-memory mode behind.

It is NOT Qdrant: it shows that our adapter speaks the protocol and handles errors, not how the server searches. The
in-memory mode ignores the top-level filter of a fusion, so a query that forgets the filter on a branch shows here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from qdrant_client import QdrantClient
from qdrant_client.http.models import (
    ChangeAliasesOperation,
    CountRequest,
    CreateCollection,
    PointIdsList,
    PointsList,
    QueryRequestBatch,
    ScrollRequest,
)
from stand_ins.http_server import serving

LATE_S = 5.0
Json = Annotated[Any, Body()]


@dataclass
class StandIn:
    """A running stand-in.

    Attributes:
        url: Where it listens.
        api_key: What callers must present; None for no check.
        faults: What the next requests get instead of an answer, first in first out: a status, "half" an answer, or
            "late", after more seconds than a client waits.
        answers_no_to_exists: How many times more it denies to have a collection: as if it came a moment later.
        builds_for: How many times more it says that it builds its graphs; below 0, that it can't.
        requests: Method, path and body of every request so far.
    """

    url: str = ""
    api_key: str | None = None
    faults: list[int | str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    answers_no_to_exists: int = 0
    builds_for: int = 0
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)


def build_app(state: StandIn) -> FastAPI:
    app = FastAPI()
    client = QdrantClient(":memory:")
    lock = threading.Lock()  # the in-memory mode isn't thread-safe

    def ok(result: Any) -> JSONResponse:
        if isinstance(result, list):
            result = [_plain(item) for item in result]
        return JSONResponse({"result": _plain(result), "status": "ok", "time": 0.0})

    async def fail(fault: int | str) -> Response:
        if fault == "half":
            # The connection closes before the promised length.
            return Response(b'{"result": {"coll', headers={"content-length": "500"}, media_type="application/json")
        if fault == "late":
            await asyncio.to_thread(state.stopping.wait, LATE_S)
            return Response(status_code=504)
        assert isinstance(fault, int)
        headers = {"Retry-After": "0"} if fault == 429 else {}
        return JSONResponse({"status": {"error": f"injected {fault}"}}, fault, headers)

    @app.middleware("http")
    async def check(request: Request, forward: Any) -> Any:
        state.requests.append((request.method, request.url.path, await request.body()))
        if state.api_key is not None and request.headers.get("api-key") != state.api_key:
            return JSONResponse({"status": {"error": "Invalid API key"}}, 401)
        if state.faults:
            return await fail(state.faults.pop(0))
        parts = request.url.path.split("/")
        is_about_one = len(parts) > 2 and parts[2] not in ("", "aliases") and not request.url.path.endswith("/exists")
        if (
            is_about_one
            and not (request.method == "PUT" and len(parts) == 3)
            and not client.collection_exists(parts[2])
        ):
            return JSONResponse({"status": {"error": f"Not found: Collection `{parts[2]}` doesn't exist!"}}, 404)
        try:
            return await forward(request)
        except ValueError as error:
            return JSONResponse({"status": {"error": str(error)}}, 400)

    @app.get("/collections")
    def collections() -> JSONResponse:
        with lock:
            return ok(client.get_collections())

    @app.get("/collections/{name}/exists")
    def exists(name: str) -> JSONResponse:
        if state.answers_no_to_exists:
            state.answers_no_to_exists -= 1
            return ok({"exists": False})
        return ok({"exists": client.collection_exists(name)})

    @app.get("/collections/{name}")
    def info(name: str) -> JSONResponse:
        status = "green"
        if state.builds_for:
            status = "yellow" if state.builds_for > 0 else "red"
            state.builds_for = max(state.builds_for - 1, 0)
        return ok(client.get_collection(name).model_copy(update={"status": status}))

    @app.put("/collections/{name}")
    def create(name: str, body: Json) -> JSONResponse:
        wanted = CreateCollection.model_validate(body)
        with lock:
            client.create_collection(
                name, vectors_config=wanted.vectors, sparse_vectors_config=wanted.sparse_vectors or None
            )
        return ok(True)

    @app.delete("/collections/{name}")
    def drop(name: str) -> JSONResponse:
        with lock:
            return ok(client.delete_collection(name))

    @app.get("/aliases")
    def aliases() -> JSONResponse:
        with lock:
            return ok(client.get_aliases())

    @app.post("/collections/aliases")
    def change_aliases(body: Json) -> JSONResponse:
        with lock:
            return ok(client.update_collection_aliases(ChangeAliasesOperation.model_validate(body).actions))

    @app.put("/collections/{name}/index")
    def index(name: str) -> JSONResponse:
        return ok({"operation_id": 0, "status": "completed"})

    @app.put("/collections/{name}/points")
    def upsert(name: str, body: Json) -> JSONResponse:
        with lock:
            return ok(client.upsert(name, PointsList.model_validate(body).points))

    @app.post("/collections/{name}/points/delete")
    def delete(name: str, body: Json) -> JSONResponse:
        with lock:
            return ok(client.delete(name, points_selector=PointIdsList.model_validate(body)))

    @app.post("/collections/{name}/points/query/batch")
    def query(name: str, body: Json) -> JSONResponse:
        with lock:
            return ok(client.query_batch_points(name, QueryRequestBatch.model_validate(body).searches))

    @app.post("/collections/{name}/points/scroll")
    def scroll(name: str, body: Json) -> JSONResponse:
        wanted = ScrollRequest.model_validate(body)
        with lock:
            points, following = client.scroll(
                name,
                limit=wanted.limit or 10,
                offset=wanted.offset,
                with_payload=wanted.with_payload or False,
                with_vectors=wanted.with_vector or False,
            )
        return ok({"points": [_plain(point) for point in points], "next_page_offset": following})

    @app.post("/collections/{name}/points/count")
    def count(name: str, body: Json) -> JSONResponse:
        with lock:
            return ok(client.count(name, count_filter=CountRequest.model_validate(body).filter))

    return app


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else value


@contextmanager
def running() -> Iterator[StandIn]:
    """Start a stand-in on a free loopback port, and stop it at the end."""
    state = StandIn()
    with serving(build_app(state)) as url:
        state.url = url
        try:
            yield state
        finally:
            state.stopping.set()
