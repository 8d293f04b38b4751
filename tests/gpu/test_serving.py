"""What answers and what embeds, on a GPU as on a processor."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from stand_ins.documents import DOCUMENTS, eventually
from tiny_models import TEXT, write_adapter, write_embedder

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.config.machine import Processor, read_processor
from tandem.models.engines import GenerationRequest
from tandem.models.engines.transformers import TransformersEngine
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.deploying.releases import Releases
from tandem.orchestrator.processes import free_port
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.records import Records
from tandem.retrieval import embedding
from tandem.retrieval.embedding import Embedder
from tandem.specs import IndexSpec
from tandem.specs.compare import EngineSpec

APP = "rag"
SHARE = 0.1  # of the GPU
SPEC = EngineSpec(name="transformers", max_model_len=256)
QUESTIONS = ("a", "Why is the sky blue?", "what? " * 9, "0123456789", "Zz")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("embedder") / "model")


def processor(*, cuda: bool) -> Processor:
    found = read_processor()
    assert found.has_gpu
    return found if cuda else replace(found, cuda_capability=None)


def test_the_engine_gives_the_tokens_that_a_processor_gives(peaked_llama: Path, tmp_path: Path) -> None:
    adapters = {"tuned": write_adapter(tmp_path / "tuned", peaked_llama)}
    requests = [
        GenerationRequest([{"role": "user", "content": question}], max_tokens=16, adapter=adapter)
        for question in QUESTIONS
        for adapter in (None, "tuned")
    ]
    answers = []
    for cuda in (True, False):
        engine = TransformersEngine(SPEC, peaked_llama, adapters, dtype="float32", processor=processor(cuda=cuda))
        assert next(engine._model.parameters()).is_cuda is cuda
        answers.append([(answer.text, answer.completion_tokens) for answer in engine.generate(requests)])
        engine.close()
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == len(requests)


@pytest.mark.parametrize(("dtype", "likeness"), [("float32", 0.99999), ("bfloat16", 0.999)])
def test_an_embedder_gives_the_vectors_that_a_processor_gives(
    embedder: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, likeness: float
) -> None:
    texts = [TEXT[at : at + 60] for at in range(0, 200, 7)]
    ours = Embedder(embedder, 8, dtype)
    assert ours._by_pytorch is not None
    assert ours._by_pytorch.model.device.type == "cuda"
    vectors = ours.encode(texts)
    monkeypatch.setattr(embedding, "read_processor", lambda: processor(cuda=False))
    plain = Embedder(embedder, 8)
    assert plain._by_pytorch is None or plain._by_pytorch.model.device.type == "cpu"
    assert float(np.min(np.sum(vectors * plain.encode(texts), axis=1))) > likeness


@pytest.mark.parametrize("share", [0.0, SHARE])
def test_an_actor_computes_on_the_gpu_that_it_reserved_and_on_no_other(ray_cluster: Cluster, share: float) -> None:
    import ray

    @ray.remote(num_cpus=1, num_gpus=share)
    class Actor:
        def computes_on_a_gpu(self) -> bool:
            return read_processor().has_gpu

    assert ray.get(Actor.remote().computes_on_a_gpu.remote()) is (share > 0)


@pytest.fixture(scope="module")
def adapters(peaked_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(folder / name, peaked_llama, seed=seed) for seed, name in enumerate("abc", start=1)}


@pytest.fixture(scope="module")
def indexed(ray_cluster: Cluster, embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A collection whose vectors a GPU computed; what the job has to say of it."""
    from tandem.retrieval import job

    docs = tmp_path_factory.mktemp("docs")
    rows = [{"id": source.rpartition("#")[2], **row} for source, row in DOCUMENTS.items()]
    (docs / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = IndexSpec.model_validate(
        {
            "kind": "index",
            "name": "gpu-docs",
            "sources": [str(docs)],
            "embedder": {"model": str(embedder), "gpus": SHARE},
        }
    )
    folder = ray_cluster.storage / "jobs" / "gpu-docs-1"
    folder.mkdir(parents=True)
    return job.run(spec, JobContext(folder.name, spec.name, folder, ray_cluster.storage, ray_cluster))


def test_an_index_is_embedded_on_the_gpu(indexed: dict[str, Any]) -> None:
    assert indexed["embedded"] == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("engine", "gpus"),
    [({"name": "transformers", "dtype": "float32"}, SHARE), ({"name": "vllm"}, 1)],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_the_endpoint_answers_from_a_replica_on_the_gpu(
    ray_cluster: Cluster,
    indexed: dict[str, Any],
    peaked_llama: Path,
    adapters: dict[str, Path],
    engine: dict[str, str],
    gpus: float,
) -> None:
    from ray import serve

    if engine["name"] == "vllm":
        pytest.importorskip("vllm")

    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    port = serve.context._get_global_client().http_config.port
    args = {
        "kind": "rag",
        "name": "app",
        "model": str(peaked_llama),
        "retriever": {"collection": "gpu-docs", "top_k": 2},
        "engine": {"max_model_len": 512, **engine},
        "gpus_per_replica": gpus,
        "adapters": [{"name": name, "uri": str(path)} for name, path in adapters.items()],
    }
    hashed = {hashlib.sha256(ray_cluster.api_key().encode()).hexdigest(): "*"}
    (ray_cluster.storage / "api-keys.json").write_text(json.dumps(hashed))
    deployer = Deployer(ray_cluster, HttpRayJobs(ray_cluster), Releases(Records(ray_cluster.database_url).database))
    application = {"name": APP, "route_prefix": "/", "import_path": "tandem.serving.app:build", "args": args}
    deployer.deploy({"applications": [application]})

    def runs() -> bool:
        (status,) = [app for app in deployer.status() if app.name == APP]
        assert status.verdict != "failed", status.message
        return status.verdict == "running"

    assert eventually(runs, within_s=240)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=ray_cluster.api_key(), max_retries=0)
    messages = [{"role": "user", "content": "What does the quick brown fox do?"}]

    def ask(model: str) -> str:
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=12)
        assert answer.usage.completion_tokens > 0
        assert answer.citations
        return str(answer.choices[0].message.content)

    models = ["base", *adapters]
    alone = {model: ask(model) for model in models}
    assert len(set(alone.values())) == len(models)
    with ThreadPoolExecutor(2 * len(models)) as threads:
        assert list(threads.map(ask, models * 2)) == [alone[model] for model in models * 2]
    serve.delete(APP)
