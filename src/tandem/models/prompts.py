"""How a question, and what was retrieved for it, become chat messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from tandem.specs.base import PromptSpec
from tandem.specs.compare import ClassifyPromptSpec

# What chat templates of the common families (ChatML, Llama, Mistral, Gemma, Qwen) put around turns: tokenizers read
# it as such wherever it stands.
_CONTROL = r"[|｜][^<>]*>|/?s>|(?:start|end)_of_turn>|[bp]os>|eos>|pad>"
_BRACKETS = re.compile(r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\])")
_TURNS = re.compile(rf"<(?={_CONTROL})", re.IGNORECASE)
_TAG = re.compile(r"</?([A-Za-z][\w-]*)>")


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


def fence_of(prompt: PromptSpec) -> re.Pattern[str]:
    """What must not stand in a passage: the tags of the prompt's own templates, and what divides a chat's turns."""
    tags = sorted({tag for template in (prompt.context, prompt.passage) for tag in _TAG.findall(template)})
    names = "|".join([_CONTROL, *(rf"\s*/?\s*{re.escape(tag)}\b" for tag in tags)])
    return re.compile(rf"<(?={names})", re.IGNORECASE)


def _inside(fence: re.Pattern[str], text: str) -> str:
    """A retrieved text that can't leave its fence: what would end it or begin a turn is written as HTML does."""
    return _BRACKETS.sub("&#91;", fence.sub("&lt;", text))


def plain(text: str) -> str:
    """A text in which nothing begins or ends a turn of a chat: what would is written as HTML does."""
    return _inside(_TURNS, text)


def fill(template: str, **values: str) -> str:
    """A template with its fields replaced."""
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
        return fill(prompt.question, question=question)
    fence = fence_of(prompt)
    numbered = "\n".join(
        fill(
            prompt.passage,
            number=str(number),
            source=_inside(fence, p.source),
            section=_inside(fence, p.section),
            text=_inside(fence, p.text),
        )
        for number, p in enumerate(passages, start=1)
    )
    return fill(prompt.context, passages=numbered, question=question)


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


def label_messages(
    prompt: ClassifyPromptSpec, text: str, labels: Sequence[str], examples: Sequence[tuple[str, str]] = ()
) -> list[dict[str, str]]:
    """Chat messages that ask for a text's label.

    Args:
        prompt: The templates.
        text: The text, as much of it as is to be shown.
        labels: All that there are.
        examples: Texts and their labels, each a turn with its answer; the last one stands next to the text.
    """
    named = ", ".join(labels)

    def asked(each: str) -> dict[str, str]:
        return {"role": "user", "content": fill(prompt.text, text=plain(each), labels=named)}

    system = fill(prompt.system, labels=named)
    turns = [{"role": "system", "content": system}] if system else []
    for each, label in examples:
        turns += [asked(each), {"role": "assistant", "content": label}]
    return [*turns, asked(text)]
