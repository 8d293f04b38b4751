"""The engine `rag_sequence` as Ray Serve runs it: an index by inner products, the official client, random weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from stand_ins.documents import DOCUMENTS, TENANTS
from tiny_models import convert_dpr_context_encoder, write_dpr_context_encoder, write_rag

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.errors import ModelError
from tandem.models.engines.protocol import GenerationRequest, ScoredDocument
from tandem.models.rag_sequence import QuestionEncoder, RagSequence, priors
from tandem.orchestrator.processes import free_port
from tandem.retrieval.retriever import open_retriever
from tandem.specs import IndexSpec
from tandem.specs.search import SearchSpec

QUESTION = "What does the quick brown fox do?"


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rag(tmp_path_factory.mktemp("rag-sequence") / "rag")


@pytest.fixture(scope="module")
def passages(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster, with `DOCUMENTS` in one collection by inner products and one by cosine, and keys of `TENANTS`."""
    from tandem.retrieval import job

    folder = tmp_path_factory.mktemp("passages")
    context_encoder = write_dpr_context_encoder(folder / "context-encoder")
    embedder = convert_dpr_context_encoder(str(context_encoder), folder / "embedder")
    docs = folder / "docs"
    docs.mkdir()
    rows = [{"id": source.rpartition("#")[2], **row} for source, row in DOCUMENTS.items()]
    (docs / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for distance in ("dot", "cosine"):
        spec = IndexSpec.model_validate(
            {
                "kind": "index",
                "name": f"by-{distance}",
                "sources": [str(docs)],
                "embedder": {"model": str(embedder)},
                "vectors": {"distance": distance},
                "tenant_field": "tenant",
            }
        )
        place = ray_cluster.storage / "jobs" / f"by-{distance}-1"
        place.mkdir(parents=True)
        job.run(spec, JobContext(place.name, spec.name, place, ray_cluster.storage, ray_cluster))
    hashed = {hashlib.sha256(key.encode()).hexdigest(): tenant for key, tenant in TENANTS.items()}
    (ray_cluster.storage / "api-keys.json").write_text(json.dumps(hashed))
    return ray_cluster


@pytest.fixture(scope="module")
def endpoint(passages: Cluster, rag: Path) -> Iterator[str]:
    from ray import serve

    from tandem.serving.app import build

    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    port = serve.context._get_global_client().http_config.port
    args: dict[str, Any] = {
        "kind": "rag",
        "name": "app",
        "model": str(rag),
        "retriever": {"collection": "by-dot", "top_k": 3, "mode": "dense"},
        "engine": {"name": "rag_sequence", "beams": 2, "max_model_len": 512},
    }
    serve.run(build(args), name="rag-sequence", route_prefix="/rag-sequence")
    yield f"http://127.0.0.1:{port}/rag-sequence/v1"
    serve.delete("rag-sequence")


def ask(endpoint: str, key: str = "key-of-all", **options: Any) -> Any:
    client = openai.OpenAI(base_url=endpoint, api_key=key, max_retries=0)
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(**{"model": "app", "messages": messages, "max_tokens": 8, **options})


def test_an_answer_is_the_models_own_with_the_passages_and_their_weights(
    endpoint: str, passages: Cluster, rag: Path
) -> None:
    retriever = open_retriever(passages, "by-dot", questions=QuestionEncoder(rag))
    (found,) = retriever.search([QUESTION], SearchSpec(top_k=3, mode="dense"))
    documents = tuple(ScoredDocument(passage.title, passage.text, passage.score) for passage in found)
    alone = RagSequence(rag, beams=2, max_tokens=512).generate(GenerationRequest(QUESTION, 8, documents=documents))
    answer = ask(endpoint)
    assert answer.choices[0].message.content == alone.text
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        alone.prompt_tokens,
        alone.completion_tokens,
    )
    assert [citation["id"] for citation in answer.citations] == [passage.id for passage in found]
    weights = [citation["score"] for citation in answer.citations]
    assert weights == pytest.approx(priors([passage.score for passage in found]), rel=1e-4)
    assert sum(weights) == pytest.approx(1)
    chunks = list(ask(endpoint, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == alone.text


def test_a_tenant_is_answered_from_its_own_passages(endpoint: str) -> None:
    for key, tenant in TENANTS.items():
        if tenant not in (None, "*"):
            answer = ask(endpoint, key, extra_body={"retrieval": {"top_k": 50}})
            assert answer.citations
            assert {DOCUMENTS[citation["source"]]["tenant"] for citation in answer.citations} == {tenant}


def test_what_it_cannot_do_is_refused(endpoint: str) -> None:
    with pytest.raises(openai.BadRequestError, match="doesn't sample"):
        ask(endpoint, temperature=1.0)
    with pytest.raises(openai.BadRequestError, match="the question has"):
        ask(endpoint, messages=[{"role": "user", "content": "What is it? " * 100}])


def test_a_collection_by_cosine_is_refused(passages: Cluster, rag: Path) -> None:
    with pytest.raises(ModelError, match=r"compared by cosine.*vectors\.distance: dot"):
        open_retriever(passages, "by-cosine", questions=QuestionEncoder(rag))
    assert open_retriever(passages, "by-cosine").collection != open_retriever(passages, "by-dot").collection
