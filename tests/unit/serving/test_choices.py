"""Several answers to one request, continuations of texts, and embeddings."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest

pytestmark = pytest.mark.anyio
CHAT = {"model": "app", "messages": [{"role": "user", "content": "What is the answer?"}]}
TEXT = {"model": "base", "prompt": "Once upon a time"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def post(endpoint, path, body, key="key-of-all"):
    async with endpoint.client(key) as client:
        return await client.post(f"/v1/{path}", json=body)


def chunks(text: str) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_several_answers_share_one_search_and_one_prompt(endpoint):
    body = (await post(endpoint, "chat/completions", {**CHAT, "n": 3, "temperature": 1, "seed": 7})).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {"Forty-two."}
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
    assert len(endpoint.search.calls) == 1
    # A seed for each, or all would be the same; the first has what a single answer has.
    seeds = [request.seed for request in endpoint.llm.requests]
    assert seeds[0] == 7
    assert len(set(seeds)) == 3


async def test_several_answers_streamed(endpoint):
    body = {**CHAT, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    *parts, usage = chunks((await post(endpoint, "chat/completions", body)).text)
    for index in range(2):
        mine = [c for part in parts for c in part["choices"] if c["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in mine) == "Forty-two."
        assert [c["delta"].get("role") for c in mine] == ["assistant", None, None, None]
        assert [c["finish_reason"] for c in mine] == [None, None, None, "stop"]
    assert [bool(part.get("citations")) for part in parts] == [False] * (len(parts) - 1) + [True]
    assert usage["usage"] == {"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_fails_ends_all(endpoint, stream):
    endpoint.llm.error, endpoint.llm.error_after = RuntimeError("broken"), 0
    response = await post(endpoint, "chat/completions", {**CHAT, "n": 3, "stream": stream})
    assert response.status_code == 500
    assert endpoint.llm.open == 0


async def test_a_deadline_ends_all(make_endpoint):
    endpoint = make_endpoint(limits={"timeout_s": 0.05})
    endpoint.llm.hangs_after = 0
    assert (await post(endpoint, "chat/completions", {**CHAT, "n": 3})).status_code == 504
    await asyncio.sleep(0)
    assert endpoint.llm.open == 0


async def test_a_text_is_gone_on_from_without_passages(endpoint):
    body = (await post(endpoint, "completions", {**TEXT, "max_tokens": 5})).json()
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "Forty-two."
    assert "citations" not in body
    assert endpoint.search.calls == []
    assert endpoint.llm.requests[0].messages == "Once upon a time"
    assert endpoint.llm.requests[0].max_tokens == 5


async def test_several_texts(endpoint):
    body = (await post(endpoint, "completions", {**TEXT, "prompt": ["one", "two"], "n": 2})).json()
    assert [request.messages for request in endpoint.llm.requests] == ["one", "one", "two", "two"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 40


async def test_a_text_streamed(endpoint):
    got = chunks((await post(endpoint, "completions", {**TEXT, "stream": True})).text)
    assert [part["choices"][0]["text"] for part in got] == ["Forty", "-two", ".", ""]
    assert got[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"prompt": [1, 2]}, "prompt.0", "invalid_value"),
        ({"prompt": "word " * 5000}, "prompt", "context_length_exceeded"),
        ({"prompt": ["a"] * 5, "n": 2}, "n", "invalid_value"),
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"logprobs": 1}, "logprobs", "unsupported_parameter"),
        ({"retrieval": True}, "retrieval", "unknown_parameter"),
    ],
)
async def test_texts_that_are_refused(endpoint, body, param, code):
    response = await post(endpoint, "completions", {**TEXT, **body})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert endpoint.llm.requests == []


@pytest.mark.parametrize("model", ["embedder", "app"])
async def test_embeddings_as_numbers_and_as_bytes(endpoint, model):
    asked = {"model": model, "input": ["one", "two three"]}
    numbers = (await post(endpoint, "embeddings", asked)).json()
    packed = (await post(endpoint, "embeddings", {**asked, "encoding_format": "base64"})).json()
    assert [entry["embedding"] for entry in numbers["data"]] == [[3, 0.5], [9, 0.5]]
    assert numbers["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    for entry, same in zip(numbers["data"], packed["data"], strict=True):
        assert np.frombuffer(base64.b64decode(same["embedding"]), dtype="<f4").tolist() == entry["embedding"]


async def test_embeddings_are_passages_unless_questions_are_asked_for(endpoint):
    asked = {"model": "embedder", "input": "x"}
    for more in ({}, {"input_type": "query"}, {"input_type": "passage"}, {"input_type": None}):
        assert (await post(endpoint, "embeddings", {**asked, **more})).status_code == 200
    assert endpoint.embedder.questions == [False, True, False, False]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input": []}, 400),
        ({"input": ""}, 400),
        ({"input": [[1]]}, 400),
        ({"dimensions": 3}, 400),
        ({"input_type": "document"}, 400),
        ({"model": "base"}, 404),
    ],
)
async def test_embeddings_that_are_refused(endpoint, body, status):
    response = await post(endpoint, "embeddings", {"model": "embedder", "input": "x", **body})
    assert response.status_code == status
    assert endpoint.embedder.calls == []


async def test_a_filter_narrows_within_the_tenant(endpoint):
    async def ids(key, narrowed):
        body = {**CHAT, "retrieval": {"filter": narrowed, "top_k": 9}}
        return [c["id"] for c in (await post(endpoint, "chat/completions", body, key)).json()["citations"]]

    assert await ids("key-of-all", {"source": "b.md"}) == ["p2"]
    assert await ids("key-of-acme", {"source": "b.md"}) == []
    assert [call["tenant"] for call in endpoint.search.calls] == [None, "acme"]
