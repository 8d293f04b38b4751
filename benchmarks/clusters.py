"""A cluster for what runs inside a job or an endpoint."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.training_runs import ray_head

if TYPE_CHECKING:
    from tandem.config.cluster import Cluster

KEY = "benchmark-key"
NOWHERE = "http://127.0.0.1:1"


def cluster_in(storage: Path, ray_address: str, *, endpoint_url: str = NOWHERE) -> Cluster:
    """The settings of a cluster, saved, with one API key for all tenants; whoever measures has started Ray.

    Args:
        storage: A folder that isn't there yet.
        ray_address: Of the head's GCS.
        endpoint_url: Of Ray Serve's proxy, where an endpoint is measured.
    """
    from tandem.config.cluster import Cluster

    storage.mkdir()
    key = storage / "api-key"
    key.write_text(KEY + "\n")
    (storage / "api-keys.json").write_text(json.dumps({hashlib.sha256(KEY.encode()).hexdigest(): "*"}))
    cluster = Cluster(
        storage=storage,
        ray_address=ray_address,
        dashboard_url=NOWHERE,
        server_url=NOWHERE,
        endpoint_url=endpoint_url,
        database_url=f"sqlite:///{storage / 'tandem.db'}",
        mlflow_uri=f"sqlite:///{storage / 'mlflow.db'}",
        api_key_file=key,
    )
    cluster.save()
    return cluster


@contextmanager
def serving_cluster(storage: Path) -> Iterator[Cluster]:
    """A Ray head whose Serve runs in its fast mode, as `tandem up` starts it, and HTTP on a port of its own."""
    from tandem.config.cluster import STORAGE_VARIABLE
    from tandem.orchestrator.processes import free_port
    from tandem.orchestrator.ray_head import haproxy_environment

    # Short: HAProxy's sockets lie there.
    with (
        tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as fast,
        _environment({STORAGE_VARIABLE: str(storage)} | haproxy_environment(Path(fast))),
        ray_head() as address,
    ):
        # Only now: Serve reads its environment when it is imported, and a handle takes its transport from there.
        from ray import serve

        port = free_port()
        cluster = cluster_in(storage, address, endpoint_url=f"http://127.0.0.1:{port}")
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            yield cluster
        finally:
            serve.shutdown()


def index(cluster: Cluster, name: str, texts: Sequence[str]) -> None:
    """An index of texts, each a document, made by the job."""
    from tandem.artifacts.job import JobContext
    from tandem.retrieval import job
    from tandem.specs import IndexSpec

    path = cluster.storage / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)))
    spec = IndexSpec.model_validate({"kind": "index", "name": name, "sources": [str(path)]})
    folder = cluster.storage / "jobs" / f"{name}-1"
    folder.mkdir(parents=True)
    job.run(spec, JobContext(f"{name}-1", spec.name, folder, cluster.storage, cluster))


@contextmanager
def _environment(changed: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
