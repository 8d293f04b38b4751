"""Questions that follow others, and questions without an answer in the documents."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tandem.errors import TandemError
from tandem.serving import condensing
from tandem.specs.rag import ConversationSpec

pytestmark = pytest.mark.anyio
TALK = [
    {"role": "user", "content": "What does the fox do?"},
    {"role": "assistant", "content": "It jumps."},
    {"role": "user", "content": "When?"},
]


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def ask(endpoint, messages=TALK, **changes):
    async with endpoint.client() as client:
        response = await client.post("/v1/chat/completions", json={"model": "app", "messages": messages, **changes})
    assert response.status_code == 200, response.text
    return response


async def test_a_question_that_follows_others_is_searched_for_as_the_base_model_rewrites_it(endpoint):
    endpoint.llm.says = {"Last question: When?": "When does the fox jump?"}
    await ask(endpoint)
    assert endpoint.search.calls[0]["question"] == "When does the fox jump?"
    rewrite, answer = endpoint.llm.requests
    assert rewrite.adapter is None
    assert "User: What does the fox do?\nAssistant: It jumps." in rewrite.messages[0]["content"]
    # What is answered is the question as it was asked.
    assert answer.messages[-1]["content"].endswith("Question: When?")


async def test_a_first_question_is_searched_for_as_it_is(endpoint):
    await ask(endpoint, [{"role": "system", "content": "Be kind."}, TALK[0]])
    assert endpoint.search.calls[0]["question"] == "What does the fox do?"
    assert len(endpoint.llm.requests) == 1


async def test_the_spec_can_switch_it_off(make_endpoint):
    endpoint = make_endpoint(conversation={"condense": False})
    await ask(endpoint)
    assert endpoint.search.calls[0]["question"] == "When?"
    assert len(endpoint.llm.requests) == 1


@pytest.mark.parametrize("rewritten", ["", "  ", "When?\nBecause the fox"])
async def test_what_is_no_question_is_not_searched_for(endpoint, rewritten):
    endpoint.llm.says = {"Last question": rewritten}
    await ask(endpoint)
    assert endpoint.search.calls[0]["question"] == "When?"


async def test_the_last_question_is_searched_for_when_condensing_fails(endpoint, caplog):
    generate = endpoint.llm.__call__

    async def broken(self, request, *, stream):
        if "Last question" in request.messages[-1]["content"]:
            raise TandemError("secret text")
        async for piece in generate(request, stream=stream):
            yield piece

    type(endpoint.llm).__call__, before = broken, type(endpoint.llm).__call__
    try:
        await ask(endpoint)
    finally:
        type(endpoint.llm).__call__ = before
    assert endpoint.search.calls[0]["question"] == "When?"
    assert "wasn't condensed: TandemError" in caplog.text
    assert "secret" not in caplog.text


async def test_condensing_has_a_deadline_of_its_own(make_endpoint):
    endpoint = make_endpoint(conversation={"condense_timeout_s": 0.05})
    endpoint.llm.hangs_after = 0
    task = asyncio.create_task(ask(endpoint))
    while not endpoint.search.calls:
        await asyncio.sleep(0.01)
    task.cancel()
    assert endpoint.search.calls[0]["question"] == "When?"


async def test_the_oldest_turns_are_left_out_of_what_is_condensed(make_endpoint):
    endpoint = make_endpoint(
        engine={"max_model_len": 120}, conversation={"condense_max_tokens": 20}, limits={"max_tokens": 4}
    )
    long = [{"role": "user", "content": f"turn{n} " + "word " * 8} for n in range(9)]
    await ask(endpoint, [*long, TALK[-1]])
    prompt = endpoint.llm.requests[0].messages[0]["content"]
    assert "turn0" not in prompt
    assert "turn8" in prompt
    assert "Last question: When?" in prompt


def test_many_long_turns_are_counted_a_few_times_and_never_all_of_them():
    counted = []

    def count(prompt) -> int:
        counted.append(len(prompt[0]["content"]))
        return len(prompt[0]["content"]) // 4

    turns = [f"turn{n} " + "word " * 40 for n in range(5000)]
    spec = ConversationSpec()
    prompt = condensing._prompt(spec, turns, "When?", count, 1000)
    assert prompt[0]["content"].count("turn") == 18  # as many as fit: with one more it would be above 1000
    assert len(counted) <= 8
    assert max(counted) <= condensing.CHARACTERS_PER_TOKEN * 1000 + len(spec.condense_prompt)
    # A question that is longer than everything that fits isn't even counted.
    counted.clear()
    assert condensing._prompt(spec, turns, "x" * 20_000, count, 1000) is None
    assert counted == []


@pytest.mark.parametrize("stream", [False, True])
async def test_when_nothing_is_found_it_says_so_and_nothing_is_generated(make_endpoint, stream):
    endpoint = make_endpoint(conversation={"nothing_found": "I don't know."})
    endpoint.search.passages.clear()
    text = (await ask(endpoint, TALK[:1], stream=stream, n=2)).text
    assert endpoint.llm.requests == []
    assert text.count("I don't know.") == 2
    assert '"citations":[]' in text
    if not stream:
        assert json.loads(text)["usage"]["total_tokens"] == 0


async def test_the_spec_can_have_the_model_answer_without_passages(make_endpoint):
    endpoint = make_endpoint(conversation={"nothing_found": None})
    endpoint.search.passages.clear()
    assert (await ask(endpoint, TALK[:1])).json()["choices"][0]["message"]["content"] == "Forty-two."


async def test_without_retrieval_nothing_is_missing(endpoint):
    endpoint.search.passages.clear()
    assert (await ask(endpoint, TALK[:1], retrieval=False)).json()["choices"][0]["message"]["content"] == "Forty-two."


async def test_prompts_are_logged_when_asked_for(make_endpoint, caplog):
    for asked in (False, True):
        endpoint = make_endpoint(log_prompts=asked)
        with caplog.at_level(logging.DEBUG):
            answer = (await ask(endpoint, TALK[:1])).json()
        assert ("What does the fox do?" in caplog.text) == asked
    assert f"prompt of {answer['id']}" in caplog.text
