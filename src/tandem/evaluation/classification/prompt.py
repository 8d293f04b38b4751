"""What a language model is asked: the text, after as many labelled examples as fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tandem.evaluation.asking.arms import Messages, Prompt
from tandem.models.prompts import label_messages
from tandem.specs.compare import ClassifyPromptSpec

# An example of fewer words than this tells nothing.
LEAST_WORDS = 8
_WORD = re.compile(r"\S+")


def beginning(text: str, words: int | None) -> str:
    """The first words of a text as they stand there; all of it where there aren't more, or for None."""
    if words is None:
        return text
    for number, match in enumerate(_WORD.finditer(text), start=1):
        if number > words:
            return text[: match.start()].rstrip() + " …"
    return text


def label_prompt(
    spec: ClassifyPromptSpec,
    text: str,
    labels: Sequence[str],
    examples: Sequence[tuple[str, str]],
    *,
    room: int,
    count: Callable[[Messages], int],
) -> Prompt:
    """The prompt with as many examples as fit.

    The farthest are dropped first; one that doesn't even fit alone is shortened. The text that is asked never is,
    beyond what the spec says. The nearest example stands last, beside the text.

    Args:
        spec: The templates.
        text: To be told.
        labels: All that there are.
        examples: Texts and their labels, nearest first; empty for an arm without neighbours.
        room: Tokens that a prompt may have.
        count: Tokens of a list of messages under the model's chat template.
    """
    asked = beginning(text, spec.text_words)

    def built(shown: int, words: int) -> Messages:
        near = [(beginning(example, words), label) for example, label in examples[:shown]]
        return label_messages(spec, asked, labels, near[::-1])

    words = spec.example_words
    for shown in range(len(examples), 0, -1):
        messages = built(shown, words)
        if count(messages) <= room:
            return Prompt(messages, shown, True)
    while examples and (words := words // 2) >= LEAST_WORDS:
        messages = built(1, words)
        if count(messages) <= room:
            return Prompt(messages, 1, True)
    messages = built(0, 0)
    return Prompt(messages, 0, count(messages) <= room)
