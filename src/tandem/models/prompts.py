"""How a question, and what was retrieved for it, become chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tandem.specs.base import PromptSpec


class PassageLike(Protocol):
    """What a prompt needs to know of a retrieved passage."""

    @property
    def text(self) -> str:
        """The chunk, verbatim."""

    @property
    def source(self) -> str:
        """The document it comes from."""

    @property
    def section(self) -> str:
        """The headings above it."""


def _fill(template: str, **values: str) -> str:
    # Not str.format: documents and questions are full of braces, and one must never be read as a field.
    parts: list[str] = []
    rest = template
    while rest:
        hits = [(rest.find("{" + name + "}"), name) for name in values]
        found = min((hit for hit in hits if hit[0] >= 0), default=None)
        if found is None:
            parts.append(rest)
            break
        at, name = found
        parts += [rest[:at], values[name]]
        rest = rest[at + len(name) + 2 :]
    return "".join(parts)


def user_turn(prompt: PromptSpec, question: str, passages: Sequence[PassageLike] | None) -> str:
    """The user's message: the question, after its passages if any were retrieved."""
    if not passages:
        return _fill(prompt.question, question=question)
    numbered = "\n".join(
        _fill(prompt.passage, number=str(number), source=p.source, section=p.section, text=p.text)
        for number, p in enumerate(passages, start=1)
    )
    return _fill(prompt.context, passages=numbered, question=question)


def build_messages(
    prompt: PromptSpec, question: str, passages: Sequence[PassageLike] | None = None
) -> list[dict[str, str]]:
    """Chat messages for one question.

    Args:
        prompt: The templates; training, comparison and endpoint share them.
        question: The user's question, verbatim.
        passages: Retrieved passages, best first; None or empty for a prompt without context.

    Returns:
        A system turn (left out when its template is empty) and a user turn, as ``{"role", "content"}``.
    """
    system = prompt.system_context if passages and prompt.system_context is not None else prompt.system
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": user_turn(prompt, question, passages)}]
