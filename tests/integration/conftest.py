"""One Ray cluster for every integration test of a run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.config.cluster import STORAGE_VARIABLE, Cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A head with a dashboard, in this process's care, and a storage folder; no Tandem server."""
    import ray

    # Ray's sockets lie under its temp folder, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        storage = Path(folder) / "storage"
        storage.mkdir()
        os.environ[STORAGE_VARIABLE] = str(storage)
        os.environ["RAY_AUTH_MODE"] = "disabled"
        context = ray.init(
            address="local",
            num_cpus=4,
            namespace="tandem",
            include_dashboard=True,
            dashboard_port=0,
            log_to_driver=False,
            _temp_dir=str(Path(folder) / "ray"),
            runtime_env={"env_vars": {STORAGE_VARIABLE: str(storage)}},
        )
        key = storage / "api-key"
        key.write_text("integration-key\n")
        cluster = Cluster(
            storage=storage,
            ray_address=context.address_info["gcs_address"],
            dashboard_url=f"http://{context.address_info['webui_url']}",
            server_url="http://127.0.0.1:1",
            endpoint_url="http://127.0.0.1:1",
            database_url=f"sqlite:///{storage / 'tandem.db'}",
            mlflow_uri=f"sqlite:///{storage / 'mlflow.db'}",
            api_key_file=key,
        )
        cluster.save()
        yield cluster
        ray.shutdown()
        os.environ.pop(STORAGE_VARIABLE, None)
        os.environ.pop("RAY_AUTH_MODE", None)
