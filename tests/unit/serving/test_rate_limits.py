from __future__ import annotations

import pytest
from unit.serving.fakes import words

from tandem.serving.api_errors import ApiError
from tandem.serving.api_keys import Caller
from tandem.serving.rate_limits import RateLimits
from tandem.specs.rag import LimitSpec

CALLER = Caller(None, "a")
CHAT = {"model": "app", "messages": [{"role": "user", "content": "What is the answer?"}]}


@pytest.fixture
def limits(clock) -> RateLimits:
    return RateLimits(clock)


def test_so_many_requests_then_none_then_one_when_its_share_of_the_minute_is_over(limits, clock):
    spec = LimitSpec(requests_per_minute=3)
    for left in (2, 1, 0):
        assert limits.admit(CALLER, spec).headers()["x-ratelimit-remaining-requests"] == str(left)
    with pytest.raises(ApiError) as caught:
        limits.admit(CALLER, spec)
    assert caught.value.status == 429
    assert caught.value.body()["error"] == {
        "message": "This API key may have 3 requests per minute. Try again in 20 s.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert caught.value.headers["Retry-After"] == "20"
    assert caught.value.headers["x-ratelimit-limit-requests"] == "3"
    clock.now = 19.9
    with pytest.raises(ApiError):
        limits.admit(CALLER, spec)
    clock.now = 20.1
    limits.admit(CALLER, spec)
    clock.now = 1000
    assert limits.admit(CALLER, spec).headers()["x-ratelimit-remaining-requests"] == "2"


def test_tokens_are_taken_when_the_answer_ends_and_may_be_owed(limits, clock):
    spec = LimitSpec(tokens_per_minute=60)
    limits.admit(CALLER, spec).spend(90)
    with pytest.raises(ApiError, match=r"60 tokens per minute. Try again in 31 s"):
        limits.admit(CALLER, spec)
    clock.now = 31
    assert limits.admit(CALLER, spec).headers()["x-ratelimit-remaining-tokens"] == "1"


def test_a_keys_own_limits_count_before_the_specs_and_keys_do_not_share(limits):
    spec = LimitSpec(requests_per_minute=1)
    limits.admit(CALLER, spec)
    limits.admit(Caller(None, "b"), spec)
    own = Caller(None, "c", requests_per_minute=2)
    limits.admit(own, spec)
    limits.admit(own, spec)
    for caller in (CALLER, own):
        with pytest.raises(ApiError):
            limits.admit(caller, spec)


def test_without_limits_there_are_no_headers(limits):
    assert limits.admit(CALLER, LimitSpec()).headers() == {}


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_over_http(make_endpoint, stream):
    endpoint = make_endpoint(limits={"requests_per_minute": 5, "tokens_per_minute": 30})
    async with endpoint.client() as client:
        first = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        second = await client.post("/v1/chat/completions", json=CHAT)
        third = await client.post("/v1/embeddings", json={"model": "embedder", "input": "x"})
        models = await client.get("/v1/models")
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.headers["x-ratelimit-remaining-requests"] == "4"
    # 23 tokens each: after the second the key owes.
    assert third.status_code == 429
    assert third.json()["error"]["type"] == "tokens"
    assert int(third.headers["retry-after"]) > 1
    assert models.status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("tokens", [0, 5])
async def test_an_answer_that_nobody_hears_to_its_end_costs_its_prompt_and_what_was_generated(make_endpoint, tokens):
    endpoint = make_endpoint(limits={"tokens_per_minute": 1000})
    endpoint.llm.error, endpoint.llm.error_after = RuntimeError("gone"), 2
    endpoint.llm.tokens_of_a_word = tokens
    async with endpoint.client() as client:
        assert (await client.post("/v1/chat/completions", json={**CHAT, "stream": True})).status_code == 200
    (seen,) = endpoint.seen
    (prompt,) = [words(request.messages) for request in endpoint.llm.requests]
    # What doesn't say its tokens is taken for one.
    assert seen.usage.prompt_tokens == prompt > 10
    assert seen.usage.completion_tokens == 2 * (tokens or 1)
    async with endpoint.client() as client:
        embedded = await client.post("/v1/embeddings", json={"model": "embedder", "input": "x"})
    assert 990 - seen.usage.total_tokens < int(embedded.headers["x-ratelimit-remaining-tokens"]) < 1000 - prompt


@pytest.fixture
def anyio_backend():
    return "asyncio"
