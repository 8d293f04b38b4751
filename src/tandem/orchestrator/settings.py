"""What `tandem up` tells the server, as a file: ``STORAGE/server.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.config.cluster import Cluster
from tandem.config.files import write_whole
from tandem.orchestrator.controller import Policy


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens, what it looks after, and what it tries again.

    Attributes:
        cluster: As it will stand in ``cluster.json`` once everything is up.
        policy: What is tried again.
        job_cpus: Logical CPUs that jobs may hold at once; None: all that the cluster has.
    """

    cluster: Cluster
    policy: Policy
    job_cpus: float | None

    def save(self) -> Path:
        """Write ``server.json`` under the storage folder."""
        path = self.cluster.storage / "server.json"
        write_whole(path, json.dumps(asdict(self), indent=2, default=str) + "\n", private=True)
        return path

    @classmethod
    def load(cls, path: Path) -> ServerSettings:
        """Read what `save` wrote."""
        data: dict[str, Any] = json.loads(path.read_text())
        return cls(Cluster.from_json(data["cluster"]), Policy(**data["policy"]), data["job_cpus"])
