"""The prompt of an answer: the conversation, the question, and as many passages as fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeVar

from tandem.models.prompts import PassageLike, build_messages
from tandem.serving.api_errors import ApiError, bad_request
from tandem.serving.requests import Message
from tandem.specs.base import PromptSpec

P = TypeVar("P", bound=PassageLike)
Prompt = list[dict[str, str]] | str


def compose(
    prompt: PromptSpec, conversation: Sequence[Message], passages: Sequence[PassageLike]
) -> list[dict[str, str]]:
    """Chat messages: the app's system turn, earlier turns as they were, the question with its passages.

    The caller's own system text follows the app's, since many chat templates allow one system turn, at the start.
    """
    *earlier, last = conversation
    *system, question = build_messages(prompt, last.text, passages or None)
    texts = [turn["content"] for turn in system] + [m.text for m in earlier if m.role in ("system", "developer")]
    turns = [{"role": m.role, "content": m.text} for m in earlier if m.role in ("user", "assistant")]
    return [*([{"role": "system", "content": "\n\n".join(texts)}] if texts else []), *turns, question]


def fit(
    prompt: PromptSpec,
    conversation: Sequence[Message],
    passages: Sequence[P],
    *,
    count: Callable[[Prompt], int],
    budget: int,
) -> tuple[list[dict[str, str]], list[P], int]:
    """The prompt with as many of the best passages as fit, those passages, and the prompt's tokens.

    An answer without what was found would look like one that rests on it. So where not even the best passage fits
    beside the conversation, its oldest turns are left out until it does.

    Args:
        prompt: The templates.
        conversation: The request's messages; the last is the question.
        passages: Best first.
        count: Tokens of chat messages, template included.
        budget: Tokens that the prompt may have.

    Raises:
        ApiError: 400: the conversation doesn't fit even without passages, or the question not with the best one.
    """

    def counted(turns: Sequence[Message], kept: int) -> tuple[list[dict[str, str]], list[P], int]:
        messages = compose(prompt, turns, passages[:kept])
        return messages, list(passages[:kept]), count(messages)

    best = counted(conversation, len(passages))
    # Nearly always all of them fit; counting takes milliseconds.
    if best[2] <= budget:
        return best
    _, _, tokens = counted(conversation, 0)
    if tokens > budget:
        raise too_long(tokens, budget, param="messages")
    # Each exchange and each passage only adds tokens: bisect for how many fit.
    shorter = _shortened(conversation)
    place = bisect_left(shorter, True, key=lambda turns: counted(turns, 1)[2] <= budget)
    turns = shorter[min(place, len(shorter) - 1)]
    kept = bisect_left(range(2, len(passages)), True, key=lambda kept: counted(turns, kept)[2] > budget) + 1
    best = counted(turns, kept)
    if best[2] > budget:
        raise too_long(best[2], budget, param="messages")
    return best


def _shortened(conversation: Sequence[Message]) -> list[Sequence[Message]]:
    """The conversation, then without its first exchange, its second and so on; instructions and the question stay."""
    *earlier, question = conversation
    instructions = [turn for turn in earlier if turn.role in ("system", "developer")]
    talk = [turn for turn in earlier if turn.role in ("user", "assistant")]
    begins = [place for place in range(1, len(talk)) if talk[place].role == "user"]
    if talk:
        begins.append(len(talk))
    return [conversation, *([*instructions, *talk[begin:], question] for begin in begins)]


def too_long(tokens: int, budget: int, *, param: str) -> ApiError:
    """400: what was sent doesn't fit.

    Args:
        tokens: That it has.
        budget: That it may have.
        param: The request's field.
    """
    return bad_request(
        f"`{param}` has {tokens} tokens; with the answer's share only {budget} fit. Shorten it, "
        "or ask for fewer max_tokens.",
        param=param,
        code="context_length_exceeded",
    )
