"""A whole orchestrator without Ray: records in a file, a fake Ray, a clock that a test turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tandem.config.cluster import Cluster
from tandem.orchestrator.controller import Policy
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.deploying.releases import Releases
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.fake_ray import FakeRayJobs
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.records import Records
from tandem.orchestrator.roles import SERVER_KEYS, ServerKeys
from tandem.orchestrator.scheduler import Rules
from tandem.orchestrator.states import State
from tandem.specs import RAY_KINDS, IndexSpec


@dataclass
class World:
    """What a test holds in its hands."""

    cluster: Cluster
    records: Records
    ray: FakeRayJobs = field(default_factory=FakeRayJobs)
    now: float = 1_000_000.0
    policy: Policy = field(default_factory=lambda: Policy(retry=True, max_attempts=5))
    rules: Rules = field(default_factory=lambda: Rules({}, {}, passing_s=600, grace_s=300, shared_cpus=4))
    orchestrator: Orchestrator = field(init=False)

    def __post_init__(self) -> None:
        self.orchestrator = Orchestrator(
            self.records, self.ray, self.cluster, self.policy, self.rules, clock=lambda: self.now
        )

    def restart(self) -> None:
        """As when the server is killed and comes back: nothing but the database and the files survives."""
        self.records.close()
        self.records = Records(self.cluster.database_url, clock=lambda: self.now)
        self.__post_init__()

    def turn(self) -> None:
        """What happens in a second: the loop turns, and each job comes a step further: started, running, done."""
        self.now += 1.0
        for job in self.records.find(states=[State.STARTING, State.RUNNING]):
            if job.kind not in RAY_KINDS:
                continue  # what it does the server does itself, or its steps' jobs
            if job.state is State.STARTING:
                self.ray.set(job.submission_id, "RUNNING", printed=f"{job.name} works\n")
            else:
                self.write(job, "result.json", {})
                self.ray.set(job.submission_id, "SUCCEEDED", printed=f"{job.name} is done\n")
        self.orchestrator.step()

    def deployer(self, serve: Callable[[httpx.Request], httpx.Response]) -> Deployer:
        """One whose calls a stand-in for Ray's dashboard answers."""
        ray = HttpRayJobs(self.cluster, transport=httpx.MockTransport(serve))
        return Deployer(self.cluster, ray, Releases(self.records.database, clock=lambda: self.now))

    def keys(self) -> ServerKeys:
        return ServerKeys(self.cluster.storage / SERVER_KEYS, "secret-key", "ada")

    def submit(self, name: str = "docs", **fields: Any) -> Job:
        spec = index_spec(name, **fields)
        return self.records.submit("index", name, spec)[0]

    def write(self, job: Job, name: str, data: dict[str, Any]) -> None:
        """What the runner writes into the job's folder."""
        (self.orchestrator.files(job.id).path / name).write_text(json.dumps(data))

    def state(self, job: Job) -> str:
        return str(self.records.get(job.id).state)


def index_spec(name: str, **fields: Any) -> dict[str, Any]:
    return IndexSpec.model_validate({"kind": "index", "name": name, "sources": ["/docs"], **fields}).canonical()


def make_cluster(storage: Path) -> Cluster:
    (storage / "api-key").write_text("secret-key\n")
    return Cluster(
        storage=storage,
        ray_address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:1",
        server_url="http://127.0.0.1:2",
        endpoint_url="http://127.0.0.1:3",
        database_url=f"sqlite:///{storage / 'tandem.db'}",
        mlflow_uri=f"sqlite:///{storage / 'mlflow.db'}",
        api_key_file=storage / "api-key",
    )
