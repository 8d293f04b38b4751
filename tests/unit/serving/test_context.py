from __future__ import annotations

import pytest
from unit.serving.fakes import FakePassage

from tandem.serving.api_errors import ApiError
from tandem.serving.context import compose, fit
from tandem.serving.requests import Message
from tandem.specs.base import PromptSpec

PROMPT = PromptSpec(system="Be brief.", system_context="Use the documents.")
PASSAGES = [FakePassage(f"p{n}", "s", f"passage{n} of ten words or so, and then some more", 1 / n) for n in range(1, 6)]


def words(messages: list[dict[str, str]]) -> int:
    return sum(len(m["content"].split()) for m in messages)


def conversation(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


QUESTION = conversation(("user", "What is {passages}?"))


def test_all_passages_when_they_fit():
    messages, kept, tokens = fit(PROMPT, QUESTION, PASSAGES, count=words, budget=10_000)
    assert kept == PASSAGES
    assert messages == compose(PROMPT, QUESTION, PASSAGES)
    assert tokens == words(messages)


@pytest.mark.parametrize("n", range(1, 6))
def test_the_lowest_ranked_are_dropped_until_it_fits(n):
    budget = words(compose(PROMPT, QUESTION, PASSAGES[:n]))
    messages, kept, tokens = fit(PROMPT, QUESTION, PASSAGES, count=words, budget=budget)
    assert kept == PASSAGES[:n]
    assert words(messages) == tokens == budget
    assert messages[-1]["content"].endswith("What is {passages}?")


@pytest.mark.parametrize("passages", [[], PASSAGES[:1]])
def test_neither_the_question_nor_the_best_passage_is_dropped(passages):
    budget = words(compose(PROMPT, QUESTION, passages)) - 1
    with pytest.raises(ApiError) as caught:
        fit(PROMPT, QUESTION, passages, count=words, budget=budget)
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("room", "left"), [(0, []), (2, []), (3, ["d", "d d"]), (5, ["d", "d d"]), (6, ["a", "b b", "d", "d d"])]
)
def test_the_oldest_exchanges_make_room_for_the_best_passage(room, left):
    talk = [("user", "a"), ("assistant", "b b"), ("system", "In verse."), ("user", "d"), ("assistant", "d d")]
    whole = conversation(*talk, ("user", "What?"))
    budget = words(compose(PROMPT, [whole[2], whole[-1]], PASSAGES[:1])) + room
    messages, kept, _ = fit(PROMPT, whole, PASSAGES, count=words, budget=budget)
    assert [m["content"] for m in messages[1:-1]] == left
    assert kept == PASSAGES[:1]
    assert messages[0]["content"].endswith("In verse.")


def test_without_passages_nothing_of_the_conversation_is_left_out():
    whole = conversation(("user", "a"), ("assistant", "b"), ("user", "What?"))
    messages, kept, tokens = fit(PROMPT, whole, [], count=words, budget=10_000)
    assert (kept, len(messages)) == ([], 4)
    with pytest.raises(ApiError):
        fit(PROMPT, whole, [], count=words, budget=tokens - 1)


def test_earlier_turns_stay_between_system_and_question():
    talk = conversation(("system", "In verse."), ("user", "one"), ("assistant", "two"), ("user", "three"))
    messages = compose(PROMPT, talk, PASSAGES[:1])
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"] == "Use the documents.\n\nIn verse."
    assert [m["content"] for m in messages[1:3]] == ["one", "two"]


def test_without_a_system_text_there_is_no_system_turn():
    assert [m["role"] for m in compose(PromptSpec(system=""), QUESTION, [])] == ["user"]
