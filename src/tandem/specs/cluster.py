"""`kind: cluster`: where things run."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tandem.specs.base import Spec
from tandem.specs.queue import Amounts, ClusterQueueSpec


class PortSpec(Spec):
    """Ports on loopback; 0 picks a free one."""

    gcs: int = Field(6379, ge=0, le=65535)
    dashboard: int = Field(8265, ge=0, le=65535)
    server: int = Field(8400, ge=0, le=65535)
    endpoint: int = Field(8000, ge=0, le=65535)


class QdrantSpec(Spec):
    """Without a URL: the embedded engine, owned by one actor, under the storage path."""

    url: str | None = None
    api_key_env: str | None = Field(None, description="the NAME of the variable that holds the key")


class ClusterSpec(Spec):
    """A cluster on this machine, or one to attach to."""

    kind: Literal["cluster"] = "cluster"
    address: str = Field(
        "local", description="local: started here by `tandem up`; else the URL of a Ray dashboard to attach to"
    )
    storage: str = Field(".tandem", description="records, artifacts, index, logs; on several machines, a shared folder")
    database: str | None = Field(
        None, description="sqlite:///PATH or postgresql://USER@HOST/DATABASE; default: SQLite under the storage path"
    )
    mlflow: str | None = Field(None, description="MLflow tracking URI; default: SQLite under the storage path")
    qdrant: QdrantSpec = QdrantSpec()
    ports: PortSpec = PortSpec()
    cpus: int | None = Field(
        None,
        ge=1,
        description="logical CPUs; default: cores + 2, so that an endpoint left up doesn't keep jobs waiting",
    )
    ray_token_file: str | None = Field(None, description="path of the Ray token, for a cluster that isn't local")
    retry: Literal["never", "infrastructure"] = Field(
        "infrastructure", description="infrastructure: retry what the job didn't cause"
    )
    max_attempts: int = Field(5, ge=1, description="of a job; those in which it was preempted don't count")
    grows_to: Amounts = Field(
        {},
        description="what the cluster may come to have by Ray's autoscaler: jobs are admitted against it, and their "
        "workers wait for the machines",
    )
    queue: ClusterQueueSpec = ClusterQueueSpec()

    @model_validator(mode="after")
    def _goes_together(self) -> ClusterSpec:
        if self.address != "local" and not self.address.startswith(("http://", "https://")):
            raise ValueError(f"address: 'local' or the URL of a Ray dashboard, not {self.address!r}")
        if self.database and urlsplit(self.database).password:
            raise ValueError("database: no password in a file; the server takes it from ~/.pgpass or PGPASSWORD")
        if self.address == "local" and self.grows_to:
            raise ValueError("grows_to: a local cluster has this machine alone, and doesn't grow")
        return self
