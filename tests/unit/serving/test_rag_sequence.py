from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_models import write_rag
from unit.serving.conftest import Endpoint
from unit.serving.fakes import FakePassage

from tandem.models.engines.protocol import GenerationRequest, ScoredDocument
from tandem.models.rag_sequence import priors
from tandem.serving.app import _language_model
from tandem.serving.rag_sequence import RagSequenceServer
from tandem.specs.rag import RagSequenceSpec, RagSpec

ENGINE = {"name": "rag_sequence"}
ARGS: dict[str, Any] = {
    "kind": "rag",
    "name": "app",
    "model": "m",
    "retriever": {"collection": "docs", "top_k": 2, "mode": "dense"},
    "engine": ENGINE,
}
QUESTION: dict[str, Any] = {"model": "app", "messages": [{"role": "user", "content": "Who is it?"}]}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def endpoint(make_endpoint: Callable[..., Endpoint]) -> Endpoint:
    made = make_endpoint(engine=ENGINE, retriever=ARGS["retriever"], adapters=[], default_model=None)
    made.search.passages[:] = [
        FakePassage("p1", "a.md", "The answer is forty-two.", 9.0, "acme", title="A"),
        FakePassage("p2", "b.md", "It is another.", 8.0, "other", title="B"),
        FakePassage("p3", "c.md", "A third.", 7.0, "acme", title="C"),
    ]
    return made


async def ask(endpoint: Endpoint, path: str = "chat/completions", key: str = "key-of-all", **body: Any) -> Any:
    async with endpoint.client(key) as client:
        return await client.post(f"/v1/{path}", json={**QUESTION, **body})


async def test_the_model_gets_question_and_passages_and_their_weights_are_cited(endpoint: Endpoint) -> None:
    answer = (await ask(endpoint, max_tokens=7)).json()
    (request,) = endpoint.llm.requests
    assert (request.messages, request.max_tokens) == ("Who is it?", 7)
    assert request.documents == (
        ScoredDocument("A", "The answer is forty-two.", 9.0),
        ScoredDocument("B", "It is another.", 8.0),
    )
    assert [citation["id"] for citation in answer["citations"]] == ["p1", "p2"]
    assert [citation["score"] for citation in answer["citations"]] == pytest.approx(priors([9.0, 8.0]))
    assert answer["choices"][0]["message"]["content"] == "Forty-two."


async def test_a_tenant_is_answered_from_its_own_passages(endpoint: Endpoint) -> None:
    await ask(endpoint, key="key-of-acme", retrieval={"top_k": 3})
    assert endpoint.search.calls[0]["tenant"] == "acme"
    assert [document.title for document in endpoint.llm.requests[0].documents] == ["A", "C"]


async def test_without_passages_the_model_is_not_asked(endpoint: Endpoint) -> None:
    endpoint.search.passages.clear()
    answer = (await ask(endpoint)).json()
    assert answer["choices"][0]["message"]["content"] == "I found nothing about this in the documents."
    assert endpoint.llm.requests == []


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("messages", {"messages": [{"role": "system", "content": "Be brief."}, *QUESTION["messages"]]}),
        ("messages", {"messages": 2 * QUESTION["messages"]}),
        ("temperature", {"temperature": 0.7}),
        ("retrieval", {"retrieval": False}),
    ],
)
async def test_what_it_cannot_do_is_refused(endpoint: Endpoint, param: str, body: dict[str, Any]) -> None:
    answer = await ask(endpoint, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")
    assert endpoint.llm.requests == endpoint.search.calls == []


async def test_it_goes_on_from_no_text(endpoint: Endpoint) -> None:
    async with endpoint.client() as client:
        answer = await client.post("/v1/completions", json={"model": "app", "prompt": "It is"})
    assert answer.status_code == 400
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"retriever": {"collection": "docs"}}, "set mode: dense"),
        ({"retriever": {"collection": "docs", "mode": "dense", "diversity": 0.5}}, "set mode: dense"),
        ({"retriever": {"collection": "docs", "mode": "dense", "min_similarity": 0.5}}, "set mode: dense"),
        ({"adapters": [{"name": "one", "uri": "artifact:a"}]}, "adapters: rag_sequence takes none"),
        ({"prompt": {"system": "Be brief."}}, "prompt: rag_sequence"),
        ({"conversation": {"nothing_found": None}}, "can't answer without passages"),
        ({"engine": {**ENGINE, "url": "http://host"}}, "Extra inputs"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(changes: dict[str, Any], fault: str) -> None:
    assert isinstance(RagSpec.model_validate(ARGS).engine, RagSequenceSpec)
    with pytest.raises(ValidationError, match=fault):
        RagSpec.model_validate({**ARGS, **changes})


def test_the_replica_is_the_models(tmp_path: Path) -> None:
    spec = RagSpec.model_validate({**ARGS, "gpus_per_replica": 0})
    deployment = _language_model(spec, Path("m"), {}, tmp_path)._bound_deployment
    assert deployment.func_or_class is RagSequenceServer or deployment.func_or_class.__name__ == "RagSequenceServer"
    assert RagSequenceSpec.model_validate(deployment.init_args[0]) == spec.engine


def test_requests_at_once_have_the_answers_that_each_has_alone(tmp_path: Path) -> None:
    rag = write_rag(tmp_path / "rag")
    server = RagSequenceServer({**ENGINE, "max_model_len": 512, "beams": 2}, str(rag))
    requests = [
        GenerationRequest("What jumps?", 6, documents=tuple(ScoredDocument("A", text, 1.0) for text in texts))
        for texts in (["fox"], ["fox", "the lazy dog"], ["default value", "dog", "numbers 1 2"])
    ]

    async def story() -> None:
        alone = [await server.answer(request) for request in requests]
        assert await asyncio.gather(*map(server.answer, requests)) == alone
        assert len({piece.text for piece in alone}) > 1
        assert all(piece.finish_reason in ("stop", "length") and piece.prompt_tokens for piece in alone)

    asyncio.run(story())
