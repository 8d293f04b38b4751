"""What `tandem up` tells the server, as a file: ``STORAGE/server.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tandem.config.cluster import Cluster
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
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2, default=str) + "\n")
        partial.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> ServerSettings:
        """Read what `save` wrote."""
        data: dict[str, Any] = json.loads(path.read_text())
        values = {field.name: data["cluster"][field.name] for field in fields(Cluster)}
        for key in ("storage", "api_key_file", "ray_token_file"):
            if values[key] is not None:
                values[key] = Path(values[key])
        return cls(Cluster(**values), Policy(**data["policy"]), data["job_cpus"])
