"""The cluster that `tandem up` started or attached to, as a file that every command reads."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tandem.config.files import write_whole
from tandem.errors import UnreachableError

STORAGE_VARIABLE = "TANDEM_STORAGE"


def storage_path(storage: Path | None = None) -> Path:
    """The storage folder: as given, else $TANDEM_STORAGE, else ``.tandem`` in the current folder."""
    return (storage or Path(os.environ.get(STORAGE_VARIABLE) or ".tandem")).absolute()


@dataclass(frozen=True)
class Cluster:
    """Addresses, and the paths of secrets; never a secret itself.

    Attributes:
        storage: Records, artifacts, index, jobs and logs lie under it.
        ray_address: ``host:port`` of the GCS.
        dashboard_url: Ray's dashboard, which also serves its Jobs and Serve APIs.
        server_url: The Tandem server.
        endpoint_url: Where Ray Serve listens.
        database_url: SQLAlchemy URL of the job records.
        mlflow_uri: MLflow tracking URI.
        qdrant_url: A Qdrant server, or None for the embedded engine.
        qdrant_api_key_env: The name of the variable that holds Qdrant's key.
        ray_token_file: Ray's token, or None where the cluster has no authentication.
        api_key_file: The key with which this client calls the server and the endpoint.
        local: Started here, so that `tandem down` may stop it.
        pids: Processes that `tandem up` started, by name.
        grows_to: What it may come to have by Ray's autoscaler, by resource; empty where it doesn't grow.
    """

    storage: Path
    ray_address: str
    dashboard_url: str
    server_url: str
    endpoint_url: str
    database_url: str
    mlflow_uri: str
    api_key_file: Path
    qdrant_url: str | None = None
    qdrant_api_key_env: str | None = None
    ray_token_file: Path | None = None
    local: bool = True
    pids: dict[str, int] = field(default_factory=dict)
    grows_to: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, storage: Path | None = None) -> Cluster:
        """Read ``cluster.json`` under the storage folder.

        Raises:
            UnreachableError: There is none: no cluster was started from here.
        """
        path = storage_path(storage) / "cluster.json"
        try:
            return cls.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            raise UnreachableError(
                "no cluster was started here",
                where=str(path.parent),
                remedy=f"run `tandem up`, or set {STORAGE_VARIABLE} to the storage folder of one that runs",
            ) from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UnreachableError(
                f"can't be read: {error}", where=str(path), remedy="run `tandem down`, then `tandem up`"
            ) from None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cluster:
        """From what `save` wrote.

        Raises:
            TypeError: Something is missing: another version wrote it.
        """
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        for key in ("storage", "api_key_file", "ray_token_file"):
            if values.get(key) is not None:
                values[key] = Path(values[key])
        return cls(**values)

    def save(self) -> Path:
        """Write ``cluster.json``; last, since its existence means that the cluster is up."""
        path = self.storage / "cluster.json"
        write_whole(path, json.dumps(asdict(self), indent=2, default=str) + "\n", private=True)
        return path

    def ray_env(self) -> dict[str, str]:
        """Variables by which a process reaches this cluster and no other."""
        env = {"RAY_ADDRESS": self.ray_address, STORAGE_VARIABLE: str(self.storage)}
        if self.ray_token_file is None:
            return env | {"RAY_AUTH_MODE": "disabled"}
        return env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.ray_token_file)}

    def api_key(self) -> str:
        """This client's key for the server and the endpoint."""
        try:
            return self.api_key_file.read_text().strip()
        except OSError as error:
            raise UnreachableError(
                f"the API key can't be read: {error.strerror}",
                where=str(self.api_key_file),
                remedy="run `tandem down`, then `tandem up`",
            ) from None


def without_password(url: str) -> str:
    """A database's or MLflow's URL as it may be shown."""
    return re.sub(r"(?<=://)[^@/]*@", "***@", url)
