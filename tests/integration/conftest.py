"""One Ray cluster for every integration test of a run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins.documents import DOCUMENTS, TENANTS
from stand_ins.otlp_collector import Collector, collecting
from tiny_models import write_adapter, write_embedder, write_llama

from tandem.artifacts.job import JobContext
from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.orchestrator.ray_head import LESS_POLLING, haproxy_environment, tracing_environment
from tandem.specs import IndexSpec


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
        # Ray ends processes that nobody has used for a second: the next test would start others.
        os.environ.update({"RAY_num_workers_soft_limit": "12", "RAY_idle_worker_killing_time_threshold_ms": "600000"})
        # As `tandem up` starts a head.
        os.environ.update(LESS_POLLING)
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


@pytest.fixture(scope="session")
def endpoint_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model with adapters, and an embedder: tiny, with random weights."""
    folder = tmp_path_factory.mktemp("models")
    base = write_llama(folder / "base", hidden=128)
    return {
        "base": base,
        "tuned": write_adapter(folder / "tuned", base, seed=1),
        "other": write_adapter(folder / "other", base, seed=2),
        "third": write_adapter(folder / "third", base, seed=3),
        "embedder": write_embedder(folder / "embedder"),
    }


@pytest.fixture(scope="session")
def indexed(
    ray_cluster: Cluster, endpoint_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Cluster:
    """The cluster, with a collection of `DOCUMENTS` and the keys of `TENANTS`."""
    from tandem.retrieval import job

    docs = tmp_path_factory.mktemp("docs")
    rows = [{"id": source.rpartition("#")[2], **row} for source, row in DOCUMENTS.items()]
    (docs / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = IndexSpec.model_validate(
        {
            "kind": "index",
            "name": "serving-docs",
            "sources": [str(docs)],
            "embedder": {"model": str(endpoint_models["embedder"])},
            "tenant_field": "tenant",
        }
    )
    folder = ray_cluster.storage / "jobs" / "serving-docs-1"
    folder.mkdir(parents=True)
    job.run(spec, JobContext("serving-docs-1", spec.name, folder, ray_cluster.storage, ray_cluster))
    hashed = {hashlib.sha256(key.encode()).hexdigest(): tenant for key, tenant in TENANTS.items()}
    (ray_cluster.storage / "api-keys.json").write_text(json.dumps(hashed))
    return ray_cluster
