"""From rows to tokens, and to which of them carry loss.

Loss lies on what the model is to say: the assistant's turns with the token that ends them; for plain text, everything.
Masks fail silently, so they are checked and shown before anything is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tandem.data.quarantine import Fault
from tandem.data.rows import TrainRow
from tandem.errors import DataError, ModelError
from tandem.models.prompts import PassageLike, build_messages
from tandem.specs.base import PromptSpec

SHOWN_SAMPLES = 3
SHOWN_PROMPT_TOKENS = 48


@dataclass(frozen=True)
class Example:
    """One sequence to train on.

    Args:
        id: The row's id.
        input_ids: Token ids, at most `max_length` of them.
        loss_mask: As long; True where the token is to be predicted. The first token has nothing to be predicted from.
    """

    id: str
    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]


def chat_turns(row: TrainRow, prompt: PromptSpec, passages: Sequence[PassageLike]) -> list[dict[str, str]]:
    """The chat of a row: its own messages, or its question as it will be asked, and the first answer.

    Args:
        row: One with `messages`, or with `question` and `answers`.
        prompt: The templates; the same ones serve.
        passages: What was retrieved for the question; may be empty.
    """
    if row.messages is not None:
        return row.messages
    return [
        *build_messages(prompt, row.question or "", passages),
        {"role": "assistant", "content": row.answers[0]},
    ]


def tokenize_chat(tokenizer: Any, messages: Sequence[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and which of them the assistant says.

    The spans are found as the difference between the template applied before a turn (with the generation prompt) and
    through it, so templates need no ``{% generation %}`` marks. White space that a template puts after the end-of-turn
    token carries no loss, and where a template has no end-of-turn token, the tokenizer's end of sequence is added. An
    earlier turn that the template rewrites once others follow carries no loss.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: Turns of ``{"role", "content"}``; the last is the assistant's.

    Returns:
        (input_ids, loss_mask), equally long.

    Raises:
        DataError: The template doesn't keep the beginning of a chat when the last turn is added.
    """
    text = _render(tokenizer, messages)
    spans: list[tuple[int, int]] = []
    for index, turn in enumerate(messages):
        if turn["role"] != "assistant" or index == 0:
            continue
        before = _render(tokenizer, messages[:index], generation_prompt=True)
        through = _render(tokenizer, messages[: index + 1])
        if through.startswith(before) and text.startswith(through):
            spans.append((len(before), len(through.rstrip())))
        elif index == len(messages) - 1:
            raise DataError("the chat template rewrites the prompt once the answer follows: it can't be found")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = list(encoded["input_ids"])
    mask = [any(_inside(begin, end, span) for span in spans) for begin, end in encoded["offset_mapping"]]
    last = max((i for i, carries in enumerate(mask) if carries), default=None)
    if last is not None and ids[last] not in tokenizer.all_special_ids:
        ids, mask = [*ids[: last + 1], tokenizer.eos_token_id], [*mask[: last + 1], True]
    return ids, [carries and position > 0 for position, carries in enumerate(mask)]


def _render(tokenizer: Any, messages: Sequence[dict[str, str]], *, generation_prompt: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation_prompt)
    return text


def _inside(begin: int, end: int, span: tuple[int, int]) -> bool:
    # Byte-level tokenizers give white space a width of zero; a token across the border belongs to the answer.
    return span[0] <= begin < span[1] if begin == end else begin < span[1] and end > span[0]


def tokenize_text(tokenizer: Any, text: str, max_length: int) -> list[tuple[list[int], list[bool]]]:
    """Token ids of plain text, all of which is to be learnt, cut into windows of at most `max_length`.

    Returns:
        (input_ids, loss_mask) of each window; the last ends with the end of sequence.
    """
    ids: list[int] = list(tokenizer(text)["input_ids"])
    if not ids or ids[-1] != tokenizer.eos_token_id:
        ids.append(tokenizer.eos_token_id)
    windows = [ids[at : at + max_length] for at in range(0, len(ids), max_length)]
    return [(window, [False] + [True] * (len(window) - 1)) for window in windows if len(window) > 1]


def build_examples(
    rows: Sequence[TrainRow],
    contexts: Sequence[Sequence[PassageLike]],
    tokenizer: Any,
    *,
    prompt: PromptSpec,
    max_length: int,
    where: str,
) -> tuple[list[Example], list[Fault]]:
    """Examples of all rows, and the rows that can't be used, with the reason.

    Args:
        rows: Training rows.
        contexts: For each row the passages in its prompt, empty for none.
        tokenizer: A fast tokenizer.
        prompt: How questions and passages become messages.
        max_length: Tokens; a chat that is longer is set aside, since its answer would be cut.
        where: The rows' file, for the faults.

    Returns:
        (examples, faults).

    Raises:
        ModelError: The tokenizer is a slow one, or has no chat template and a row needs one.
    """
    if not tokenizer.is_fast:
        raise ModelError("its tokenizer gives no offsets, which loss masks need", where=str(tokenizer.name_or_path))
    if tokenizer.chat_template is None and any(row.text is None for row in rows):
        raise ModelError(
            "its tokenizer has no chat template, and rows with messages or questions need one",
            where=str(tokenizer.name_or_path),
            remedy="use an instruction-tuned model, or rows with `text`",
        )
    examples: list[Example] = []
    faults: list[Fault] = []
    for row, passages in zip(rows, contexts, strict=True):
        try:
            sequences = _sequences(row, passages, tokenizer, prompt, max_length)
        except DataError as error:
            faults.append(Fault(where, None, error.what, {"id": row.id}))
            continue
        examples += [Example(row.id, tuple(ids), tuple(mask)) for ids, mask in sequences]
    return examples, faults


def _sequences(
    row: TrainRow, passages: Sequence[PassageLike], tokenizer: Any, prompt: PromptSpec, max_length: int
) -> list[tuple[list[int], list[bool]]]:
    if row.text is not None:
        return tokenize_text(tokenizer, row.text, max_length)
    ids, mask = tokenize_chat(tokenizer, chat_turns(row, prompt, passages))
    if len(ids) > max_length:
        raise DataError(f"{len(ids)} tokens, more than max_length {max_length}: the answer would be cut")
    if not any(mask):
        raise DataError("no token carries loss: there is no answer to learn")
    return [(ids, mask)]


def preflight(examples: Sequence[Example], tokenizer: Any, *, where: str) -> str:
    """A few examples as text, with what carries loss between ``⟦`` and ``⟧``.

    Args:
        examples: What will be trained on.
        tokenizer: The tokenizer that made them.
        where: The rows' file, for the error.

    Returns:
        Lines to print.

    Raises:
        DataError: In no example any token carries loss.
    """
    total = sum(len(example.input_ids) for example in examples)
    learnt = sum(sum(example.loss_mask) for example in examples)
    if not learnt:
        raise DataError(
            f"no token of {len(examples)} examples carries loss",
            where=where,
            remedy="give rows with an assistant's turn, a completion, answers or text",
        )
    lines = [f"{len(examples)} examples, {total} tokens, {learnt} of them carry loss (shown between ⟦ and ⟧):"]
    step = max(1, len(examples) // SHOWN_SAMPLES)
    for example in examples[::step][:SHOWN_SAMPLES]:
        lines.append(f"  {example.id}: {_marked(example, tokenizer)}")
    return "\n".join(lines)


def _marked(example: Example, tokenizer: Any) -> str:
    first = example.loss_mask.index(True) if any(example.loss_mask) else len(example.loss_mask)
    start = max(0, first - SHOWN_PROMPT_TOKENS)
    shown = "… " if start else ""
    at = start
    while at < len(example.input_ids):
        carries = example.loss_mask[at]
        end = at
        while end < len(example.input_ids) and example.loss_mask[end] == carries:
            end += 1
        text = tokenizer.decode(list(example.input_ids[at:end])).replace("\n", "⏎")
        shown += f"⟦{text}⟧" if carries else text
        at = end
    return shown
