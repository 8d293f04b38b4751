from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from stand_ins.world import World, make_cluster

from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import ServerKeys
from tandem.server.app import create_app


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    cluster = make_cluster(tmp_path)
    made = World(cluster, Records(cluster.database_url, clock=lambda: made.now))
    yield made
    made.records.close()


def serve_down(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@pytest.fixture
def keys(world: World) -> ServerKeys:
    return world.keys()


@pytest.fixture
def app(world: World, keys: ServerKeys) -> FastAPI:
    """The server; Ray Serve is down. While somebody follows a job, the cluster turns."""

    async def pause(_: float) -> None:
        world.turn()

    deployer = world.deployer(serve_down)
    return create_app(world.records, world.orchestrator, deployer, keys, pause=pause)


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    """With an admin's key."""
    return TestClient(app, headers={"Authorization": "Bearer secret-key"}, raise_server_exceptions=False)
