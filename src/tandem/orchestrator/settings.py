"""What `tandem up` tells the server, as a file: ``STORAGE/server.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.config.cluster import Cluster
from tandem.config.files import write_whole
from tandem.config.machine import cores
from tandem.orchestrator.controller import Policy
from tandem.orchestrator.scheduler import Rules
from tandem.specs import ClusterSpec


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens, what it looks after, and what it tries again.

    Attributes:
        cluster: As it will stand in ``cluster.json`` once everything is up.
        policy: What is tried again.
        rules: How the line goes.
    """

    cluster: Cluster
    policy: Policy
    rules: Rules

    def save(self) -> Path:
        """Write ``server.json`` under the storage folder."""
        path = self.cluster.storage / "server.json"
        write_whole(path, json.dumps(asdict(self), indent=2, default=str) + "\n", private=True)
        return path

    @classmethod
    def load(cls, path: Path) -> ServerSettings:
        """Read what `save` wrote."""
        data: dict[str, Any] = json.loads(path.read_text())
        return cls(Cluster.from_json(data["cluster"]), Policy(**data["policy"]), Rules(**data["rules"]))

    @classmethod
    def of(cls, spec: ClusterSpec, cluster: Cluster) -> ServerSettings:
        """What a cluster file says, of a cluster that is about to be up."""
        policy = Policy(retry=spec.retry == "infrastructure", max_attempts=spec.max_attempts)
        # An endpoint left up mustn't keep jobs waiting: a local head offers more than it has cores.
        shared = float(spec.cpus or cores()) if cluster.local else None
        return cls(cluster, policy, Rules(**spec.queue.model_dump(), shared_cpus=shared))
