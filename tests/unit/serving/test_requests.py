from __future__ import annotations

import json

from tandem.serving.requests import parse


def request(**fields):
    return parse(json.dumps({"model": "m", "messages": [{"role": "user", "content": "q"}], **fields}).encode())


def test_content_in_parts_is_joined():
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]
    assert request(messages=[{"role": "user", "content": parts}]).question == "What is this?"


def test_the_last_user_message_is_the_question():
    turns = [("user", "first"), ("assistant", "ok"), ("user", "second")]
    assert request(messages=[{"role": r, "content": c} for r, c in turns]).question == "second"


def test_one_stop_string_or_several():
    assert request(stop="\n").stop == ("\n",)
    assert request(stop=["a", "b"]).stop == ("a", "b")
    assert request(stop=None).stop == ()


def test_the_newer_name_of_the_answers_length_counts():
    both = request(max_tokens=5, max_completion_tokens=7)
    assert both.answer_tokens(usual=100, most=50) == 7
    assert request().answer_tokens(usual=100, most=50) == 50
    assert request(max_tokens=80).answer_tokens(usual=10, most=50) == 50


def test_retrieval_as_usual_otherwise_or_not_at_all():
    assert request().top_k(3) == 3
    assert request(retrieval=True).top_k(3) == 3
    assert request(retrieval={}).top_k(3) == 3
    assert request(retrieval={"top_k": 9}).top_k(3) == 9
    assert request(retrieval=False).top_k(3) is None
