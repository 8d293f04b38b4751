"""The command line in this process, with a whole server behind it and a fake Ray behind that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi.testclient import TestClient
from stand_ins.world import World
from typer.testing import CliRunner, Result

from tandem.cli.client import Client
from tandem.cli.main import app
from tandem.server.app import create_app


@dataclass
class FakeServe:
    """Ray Serve's REST API: whatever is PUT runs at once, unless a message is set.

    With `only_with` that is so of applications alone in whose config that stands; `state` is theirs.
    """

    apps: dict[str, dict[str, Any]] = field(default_factory=dict)
    message: str = ""
    state: str = "DEPLOY_FAILED"
    only_with: str = ""
    deploys: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            self.deploys += 1
            self.apps = {config["name"]: config for config in json.loads(request.content)["applications"]}
            return httpx.Response(200)
        held = {name: self.message and self.only_with in json.dumps(config) for name, config in self.apps.items()}
        details = {
            name: {
                "status": self.state if held[name] else "RUNNING",
                "message": self.message if held[name] else "",
                "deployed_app_config": config,
                "route_prefix": config.get("route_prefix", "/"),
                "last_deployed_time_s": self.deploys,
                "deployments": language_model(config),
            }
            for name, config in self.apps.items()
        }
        return httpx.Response(200, json={"applications": details})


def language_model(config: dict[str, Any], max_rank: int = 16) -> dict[str, Any]:
    """What Serve says of an endpoint's language model: its `user_config` as built, or as the config has it instead."""
    uris = {adapter["name"]: adapter["uri"] for adapter in config.get("args", {}).get("adapters", [])}
    built = {"adapters": uris, "max_rank": max_rank, "required": True}
    given = {each["name"]: each.get("user_config") for each in config.get("deployments") or []}
    return {"LLM": {"deployment_config": {"user_config": given.get("LLM") or built}}}


@dataclass
class Shell:
    """The command line against a whole server in this process, with a fake Ray behind it."""

    world: World
    serve: FakeServe
    # What the cluster does while somebody follows a job: the server calls it between two looks at it.
    meanwhile: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        async def pause(_: float) -> None:
            assert self.meanwhile is not None, "a job is followed for which nothing happens"
            self.meanwhile()

        deployer = self.world.deployer(self.serve)
        server = create_app(self.world.records, self.world.orchestrator, deployer, self.world.keys(), pause=pause)
        calls = TestClient(server)

        def carry(request: httpx.Request) -> httpx.Response:
            # Starlette's test client speaks another httpx than ours.
            path = request.url.raw_path.decode()
            seen = calls.request(request.method, path, headers=dict(request.headers), content=request.content)
            return httpx.Response(seen.status_code, headers=dict(seen.headers), content=seen.content)

        self.transport = httpx.MockTransport(carry)

    def client(self) -> Client:
        return Client(self.world.cluster, transport=self.transport)

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)
