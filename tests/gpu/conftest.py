"""One Ray cluster with a GPU, and the fine-tuning jobs of all tests, begun together: `make test-gpu`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins.gpu_jobs import Jobs
from tiny_models import write_llama

from tandem.config.cluster import STORAGE_VARIABLE, Cluster


@pytest.fixture(scope="session", autouse=True)
def gpu() -> str:
    """The first GPU's name."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU on this machine")
    return torch.cuda.get_device_name()


@pytest.fixture(scope="session")
def ray_cluster(gpu: str) -> Iterator[Cluster]:
    """A head with a dashboard and this machine's GPUs, in this process's care, and a storage folder."""
    import ray

    before = dict(os.environ)
    # Ray's sockets lie under its temp folder, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        storage = Path(folder) / "storage"
        storage.mkdir()
        os.environ[STORAGE_VARIABLE] = str(storage)
        os.environ["RAY_AUTH_MODE"] = "disabled"
        context = ray.init(
            address="local",
            num_cpus=32,  # logical ones: the jobs wait for nothing but the GPU
            namespace="tandem",
            include_dashboard=True,
            dashboard_port=0,
            log_to_driver=False,
            _temp_dir=str(Path(folder) / "ray"),
            runtime_env={"env_vars": {STORAGE_VARIABLE: str(storage)}},
        )
        key = storage / "api-key"
        key.write_text("gpu-key\n")
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
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two million parameters, in float32."""
    return write_llama(tmp_path_factory.mktemp("llama") / "model", hidden=256, layers=4, heads=4)


@pytest.fixture(scope="session")
def peaked_llama(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With weights so large that no two tokens tie, and each answer depends on its whole prompt."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("peaked") / "model"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(llama, tie_word_embeddings=False))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.to(torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def jobs(ray_cluster: Cluster, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """All jobs, begun: each test waits for those that it looks at."""
    jobs = Jobs(ray_cluster, llama, tmp_path_factory.mktemp("jobs"))
    jobs.begin()
    yield jobs
    jobs.close()
