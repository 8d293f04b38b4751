"""An arm: which weights answer, and what they are shown. Everything else is the same in all arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tandem.models.prompts import build_messages
from tandem.specs.base import PromptSpec
from tandem.specs.compare import RETRIEVING, TUNED, CompareSpec

Context = Literal["none", "retrieved", "gold"]
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Passage:
    """A retrieved passage, as far as prompts, scores and the report need it.

    Attributes:
        id: Derived from the content of its chunk.
        source: Its document.
        section: Heading under which it stands there; may be empty.
        score: The retriever's; comparable within one question only.
        text: Verbatim.
    """

    id: str
    source: str
    section: str
    score: float
    text: str


@dataclass(frozen=True)
class Arm:
    """One strategy.

    Attributes:
        name: As in the spec.
        adapter: The spec's field that names its adapter; None for the base model.
        context: What its prompts show besides the question.
    """

    name: str
    adapter: str | None
    context: Context

    @property
    def candidate(self) -> bool:
        """Whether it may win: nobody can deploy an arm that is given the gold documents."""
        return self.context != "gold"


def arms_of(spec: CompareSpec) -> tuple[Arm, ...]:
    """The spec's arms, in its order."""

    def context(name: str) -> Context:
        return "gold" if name == "oracle" else "retrieved" if name in RETRIEVING else "none"

    return tuple(Arm(name, TUNED.get(name), context(name)) for name in spec.arms)


@dataclass(frozen=True)
class Prompt:
    """What an arm asks for one question.

    Attributes:
        messages: Chat messages.
        shown: How many of the passages are in them, best first.
        fits: False when even the question alone is too long for the model.
    """

    messages: Messages
    shown: int
    fits: bool


def build_prompt(
    spec: PromptSpec,
    question: str,
    passages: Sequence[Passage],
    *,
    room: int,
    count: Callable[[Messages], int],
) -> Prompt:
    """The prompt with as many passages as fit, the lowest-ranked dropped first.

    Args:
        spec: The templates.
        question: Verbatim.
        passages: Best first; empty for an arm without context.
        room: Tokens that a prompt may have.
        count: Tokens of a list of messages under the model's chat template.
    """
    for shown in range(len(passages), -1, -1):
        messages = build_messages(spec, question, passages[:shown] or None)
        if count(messages) <= room:
            return Prompt(messages, shown, True)
    return Prompt(messages, 0, False)


@dataclass(frozen=True)
class Contexts:
    """What was retrieved for each question, once for all arms.

    Attributes:
        retrieved: By question id, best first.
        gold: By question id, from the gold document alone; empty unless the oracle is an arm.
        seconds: Wall time of retrieving for one question, on average.
        index: What is known of the collection, for the lineage.
    """

    retrieved: Mapping[str, Sequence[Passage]]
    gold: Mapping[str, Sequence[Passage]]
    seconds: float
    index: Mapping[str, Any]

    def of(self, arm: Arm, question_id: str) -> Sequence[Passage]:
        """The passages that an arm may show for a question."""
        if arm.context == "none":
            return ()
        return (self.gold if arm.context == "gold" else self.retrieved)[question_id]
