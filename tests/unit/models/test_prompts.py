"""A prompt never reads a document as a template."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.models.prompts import build_messages
from tandem.specs.base import PromptSpec


@dataclass(frozen=True)
class Passage:
    text: str
    source: str = "a.txt"
    section: str = "A"


def test_question_alone() -> None:
    prompt = PromptSpec(system="S", question="Q: {question}")
    assert build_messages(prompt, "why {passages}?") == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q: why {passages}?"},
    ]


def test_passages_keep_their_braces_and_order() -> None:
    prompt = PromptSpec(system="", context="{passages}\n{question}", passage="[{number}] {source}: {text}")
    (turn,) = build_messages(prompt, "q", [Passage("set {question} to {}"), Passage("two", "b.txt")])
    assert turn == {"role": "user", "content": "[1] a.txt: set {question} to {}\n[2] b.txt: two\nq"}


def test_no_passages_is_no_context() -> None:
    assert build_messages(PromptSpec(), "q", []) == build_messages(PromptSpec(), "q", None)
