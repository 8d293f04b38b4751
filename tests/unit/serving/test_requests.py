from __future__ import annotations

import json

import pytest

from tandem.serving.api_errors import ApiError
from tandem.serving.requests import MAX_MESSAGES, ChatRequest, parse


def request(**fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "q"}], **fields}
    return parse(ChatRequest, json.dumps(body).encode())


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    assert request(messages=[{"role": "user", "content": parts}]).question == "What is this?"


def test_the_last_user_message_is_the_question():
    turns = [("user", "first"), ("assistant", "ok"), ("user", "second")]
    assert request(messages=[{"role": r, "content": c} for r, c in turns]).question == "second"


def test_one_stop_string_or_several():
    assert request(stop="\n").stops == ("\n",)
    assert request(stop=["a", "b"]).stops == ("a", "b")
    assert request(stop=None).stops == ()


def test_the_newer_name_of_the_answers_length_counts():
    assert request(max_tokens=5, max_completion_tokens=7).wanted_tokens == 7
    assert request(max_tokens=80).wanted_tokens == 80
    assert request().wanted_tokens is None


def test_retrieval_as_usual_otherwise_or_not_at_all():
    for usual in ({}, {"retrieval": True}, {"retrieval": {}}):
        assert request(**usual).passages.top_k is None
    assert request(retrieval={"top_k": 9}).passages.top_k == 9
    assert request(retrieval=False).passages is None


def test_hardly_any_temperature_is_greedy():
    # Divided by so little, probabilities are no numbers any more.
    assert [request(temperature=t).effective_temperature for t in (None, 0, 1e-300, 0.5)] == [0, 0, 0, 0.5]


def test_a_conversation_has_so_many_messages_at_most():
    turn = {"role": "user", "content": "q"}
    assert len(request(messages=[turn] * MAX_MESSAGES).messages) == MAX_MESSAGES
    with pytest.raises(ApiError, match=str(MAX_MESSAGES)):
        request(messages=[turn] * (MAX_MESSAGES + 1))
