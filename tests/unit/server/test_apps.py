"""Of two servers on one database the one that acts deploys: a change of Ray Serve says what all of it is to be."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from stand_ins.shell import FakeServe
from stand_ins.world import World

from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.deploying.releases import Releases
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.holder import Holder
from tandem.orchestrator.lease import Lease
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.records import Records
from tandem.server.app import create_app
from tandem.server.apps import only_where_it_acts

APP = {"name": "a", "route_prefix": "/a", "import_path": "mine:build"}


@dataclass
class Server:
    orchestrator: Orchestrator
    client: TestClient

    def deploy(self) -> httpx.Response:
        return self.client.put("/api/v1/apps", json={"config": {"applications": [APP]}})


def server(world: World, name: str, serve: FakeServe) -> Server:
    records = Records(world.cluster.database_url)
    lease = Lease(records.database, Holder("", f"place-{name}", 1, "1", name))
    orchestrator = Orchestrator(records, world.ray, world.cluster, world.policy, world.rules, lease=lease)
    ray = HttpRayJobs(world.cluster, transport=httpx.MockTransport(serve))
    deployer = Deployer(world.cluster, ray, Releases(records.database), check=only_where_it_acts(orchestrator, records))
    app = create_app(records, orchestrator, deployer, world.keys())
    return Server(orchestrator, TestClient(app, headers={"Authorization": "Bearer secret-key"}))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_server_that_acts_deploys_and_no_other_one(world: World) -> None:
    serve = FakeServe()
    first, second = server(world, "a", serve), server(world, "b", serve)
    # Nobody knows yet who acts: the control loops have yet to turn.
    assert first.deploy().status_code == 200
    first.orchestrator.step()
    second.orchestrator.step()
    assert first.deploy().status_code == 200
    refused = second.deploy()
    assert refused.status_code == 409
    assert "`acts` in GET /api/v1/status" in refused.json()["error"]["remedy"]
    assert second.client.delete("/api/v1/apps/a").status_code == 409
    # The first one freezes, and is replaced before it knows.
    with world.records.database.write() as session:
        session.execute(text("UPDATE leases SET expires_at = 1"))
    second.orchestrator.step()
    assert first.orchestrator.acts
    assert first.deploy().status_code == 409
    assert second.client.delete("/api/v1/apps/a").status_code == 200
