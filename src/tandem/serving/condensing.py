"""The question that is searched for, when the last one can't be understood without those before it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing

from tandem.models.engines.protocol import GenerationRequest
from tandem.models.prompts import fill
from tandem.serving.answers import Generate
from tandem.serving.context import Prompt
from tandem.serving.requests import Message
from tandem.specs.rag import ConversationSpec

logger = logging.getLogger(__name__)

SPEAKER = {"user": "User", "assistant": "Assistant"}
# More than text has in any language; what is longer isn't worth tokenizing to learn that it doesn't fit.
CHARACTERS_PER_TOKEN = 16


async def condensed(
    spec: ConversationSpec,
    conversation: Sequence[Message],
    *,
    generate: Generate,
    count: Callable[[Prompt], int],
    max_model_len: int,
) -> str:
    """The last question, rewritten by the base model so that it needs no history; as it is when that fails.

    Args:
        spec: The prompt and its limits.
        conversation: The request's messages; the last is the question.
        generate: The language model.
        count: Tokens of chat messages.
        max_model_len: Tokens of prompt and answer; the oldest turns are left out until they fit.
    """
    *earlier, last = conversation
    turns = [f"{SPEAKER[m.role]}: {m.text}" for m in earlier if m.role in SPEAKER]
    if not turns:
        return last.text
    budget = max_model_len - spec.condense_max_tokens
    try:
        async with asyncio.timeout(spec.condense_timeout_s):
            prompt = await asyncio.to_thread(_prompt, spec, turns, last.text, count, budget)
            if prompt is None:
                return last.text
            request = GenerationRequest(prompt, spec.condense_max_tokens)
            async with aclosing(generate(request, stream=False)) as pieces:
                answer = [piece async for piece in pieces]
    except Exception as error:  # noqa: BLE001 - an answer from the question as it is beats none; the next step fails by itself
        logger.warning("a question wasn't condensed: %s", type(error).__name__)
        return last.text
    text = "".join(piece.text for piece in answer).strip()
    # Cut off, it says something else than was meant; more than a line isn't a question alone.
    if not text or answer[-1].finish_reason == "length" or "\n" in text:
        return last.text
    return text


def _prompt(
    spec: ConversationSpec, turns: list[str], question: str, count: Callable[[Prompt], int], budget: int
) -> list[dict[str, str]] | None:
    """The prompt with as many of the newest turns as fit; None where not even one does."""
    room = budget * CHARACTERS_PER_TOKEN - len(question)
    # The turns that are left have few enough characters: this bounds each count below.
    high = 0
    for turn in reversed(turns):
        room -= len(turn) + 1
        if room < 0:
            break
        high += 1
    # Each turn only adds tokens: bisect for how many fit, as `context.fit` does.
    low, best = 0, None
    while low < high:
        middle = (low + high + 1) // 2
        text = fill(spec.condense_prompt, conversation="\n".join(turns[-middle:]), question=question)
        candidate = [{"role": "user", "content": text}]
        if count(candidate) <= budget:
            low, best = middle, candidate
        else:
            high = middle - 1
    return best
