from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio
ASK = {"model": "app", "messages": [{"role": "user", "content": "What is the answer?"}]}


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def post(endpoint, key="key-of-all", **changes):
    async with endpoint.client(key) as client:
        response = await client.post("/v1/chat/completions", json={**ASK, **changes})
    assert response.status_code == 200
    return response


async def test_an_answer_that_was_given_is_given_again_plain_and_streamed(make_endpoint):
    endpoint = make_endpoint(cache={"answers": 10})
    first, again = [(await post(endpoint)).json() for _ in range(2)]
    assert {**first, "id": 0, "created": 0} == {**again, "id": 0, "created": 0}
    streamed = await post(endpoint, stream=True)
    assert "Forty-two." in streamed.text
    assert len(endpoint.llm.requests) == 1
    assert [seen.cached for seen in endpoint.seen] == [False, True, True]
    assert endpoint.seen[1].usage.total_tokens == endpoint.seen[0].usage.total_tokens == 23


@pytest.mark.parametrize(
    "other",
    [
        {"model": "base"},
        {"max_tokens": 3},
        {"messages": [{"role": "user", "content": "Another?"}]},
        {"retrieval": False},
        {"stop": ["x"]},
        {"temperature": 0.5, "seed": 1},
    ],
)
async def test_whatever_decides_the_answer_makes_it_another(make_endpoint, other):
    endpoint = make_endpoint(cache={"answers": 10})
    await post(endpoint)
    await post(endpoint, **other)
    assert len(endpoint.llm.requests) == 2
    await post(endpoint, **other)
    assert len(endpoint.llm.requests) == 2


async def test_another_state_of_the_index_or_another_tenants_passages_are_another_prompt(make_endpoint):
    endpoint = make_endpoint(cache={"answers": 10})
    await post(endpoint)
    endpoint.search.passages.reverse()
    await post(endpoint)
    await post(endpoint, key="key-of-acme")
    assert len(endpoint.llm.requests) == 3


async def test_what_is_drawn_by_chance_is_drawn_anew_and_nothing_is_kept_by_default(make_endpoint):
    endpoint = make_endpoint(cache={"answers": 10})
    for _ in range(2):
        await post(endpoint, temperature=0.5)
    assert len(endpoint.llm.requests) == 2
    plain = make_endpoint()
    for _ in range(2):
        await post(plain)
    assert len(plain.llm.requests) == 2


async def test_a_broken_answer_is_not_remembered(make_endpoint):
    endpoint = make_endpoint(cache={"answers": 10})
    endpoint.llm.error, endpoint.llm.error_after = RuntimeError("boom"), 1
    await post(endpoint, stream=True)
    endpoint.llm.error = None
    assert (await post(endpoint)).json()["choices"][0]["message"]["content"] == "Forty-two."


async def test_what_a_replica_still_answers_by_an_old_adapter_is_not_kept(make_endpoint):
    endpoint = make_endpoint(cache={"answers": 10}, adapters=[{"name": "tuned", "uri": "artifact:tuned@2"}])
    endpoint.llm.adapters["tuned"] = "artifact:tuned@1"
    await post(endpoint)
    endpoint.llm.adapters["tuned"], endpoint.llm.words = "artifact:tuned@2", ("New.",)
    for asked in (2, 2):
        assert (await post(endpoint)).json()["choices"][0]["message"]["content"] == "New."
        assert len(endpoint.llm.requests) == asked
