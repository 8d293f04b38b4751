"""One Ray cluster for every integration test of a run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins.otlp_collector import Collector, collecting

from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.orchestrator.ray_head import haproxy_environment, tracing_environment


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the cluster's spans go; Serve makes some for requests whose `traceparent` asks for it alone."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def ray_cluster(collector: Collector) -> Iterator[Cluster]:
    """A head with a dashboard, in this process's care, and a storage folder; no Tandem server."""
    import ray

    # Ray's sockets lie under its temp folder, and a socket's path has at most 107 bytes.
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        storage = Path(folder) / "storage"
        storage.mkdir()
        os.environ[STORAGE_VARIABLE] = str(storage)
        os.environ["RAY_AUTH_MODE"] = "disabled"
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "100"
        os.environ["RAY_SERVE_TRACING_SAMPLING_RATIO"] = "0.0"
        # As `tandem up` starts a head.
        os.environ.update(tracing_environment(os.environ))
        os.environ.update(haproxy_environment(Path(folder) / "h"))
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
    os.environ.clear()
    os.environ.update(before)
