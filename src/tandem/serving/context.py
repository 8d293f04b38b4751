"""The prompt of an answer: the conversation, the question, and as many passages as fit."""

from __future__ import annotations

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
) -> tuple[list[dict[str, str]], list[P]]:
    """The prompt with as many of the best passages as fit, and those passages.

    Args:
        prompt: The templates.
        conversation: The request's messages; the last is the question.
        passages: Best first.
        count: Tokens of chat messages, template included.
        budget: Tokens that the prompt may have.

    Raises:
        ApiError: 400: the conversation doesn't fit even without passages.
    """
    best = compose(prompt, conversation, passages)
    # Nearly always all of them do; counting takes milliseconds.
    if count(best) <= budget:
        return best, list(passages)
    best = compose(prompt, conversation, ())
    tokens = count(best)
    if tokens > budget:
        raise too_long(tokens, budget, param="messages")
    # Each passage only adds tokens: bisect for how many fit.
    low, high = 0, len(passages) - 1
    while low < high:
        middle = (low + high + 1) // 2
        candidate = compose(prompt, conversation, passages[:middle])
        if count(candidate) <= budget:
            low, best = middle, candidate
        else:
            high = middle - 1
    return best, list(passages[:low])


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
