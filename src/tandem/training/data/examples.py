"""From rows to tokens, and to which of them carry loss.

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
from tandem.training.data.dataset import Examples
from tandem.training.data.masks import Tokens, tokenize_chat, tokenize_completion, tokenize_text

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
        ModelError: The tokenizer is a slow one, has no end of sequence, or no chat template and a row needs one.
    """
    if not tokenizer.is_fast:
        raise ModelError("its tokenizer gives no offsets, which loss masks need", where=str(tokenizer.name_or_path))
    if tokenizer.chat_template is None and any(row.text is None and not row.completion for row in rows):
        raise ModelError(
            "its tokenizer has no chat template, and rows with messages or questions need one",
            where=str(tokenizer.name_or_path),
            remedy="use an instruction-tuned model, or rows with `prompt` and `completion`, or `text`",
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
) -> list[Tokens]:
    if row.text is not None:
        return tokenize_text(tokenizer, row.text, max_length)
    if row.completion and tokenizer.chat_template is None and row.messages is not None:
        ids, mask = tokenize_completion(tokenizer, *(turn["content"] for turn in row.messages))
    else:
        ids, mask = tokenize_chat(tokenizer, chat_turns(row, prompt, passages))
    if len(ids) > max_length:
        raise DataError(f"{len(ids)} tokens, more than max_length {max_length}: the answer would be cut")
    if not any(mask):
        raise DataError("no token carries loss: there is no answer to learn")
    return [(ids, mask)]


def preflight(examples: Examples, ids: Sequence[str], tokenizer: Any, *, where: str) -> str:
    """A few examples as text, with what carries loss between ``⟦`` and ``⟧``.

    Args:
        examples: What will be trained on.
        ids: Of the row of each of them.
        tokenizer: The tokenizer that made them.
        where: The rows' file, for the error.

    Returns:
        Lines to print.

    Raises:
        DataError: In no example any token carries loss.
    """
    count, total, learnt = len(examples), len(examples.input_ids), int(examples.loss_mask.sum())
    if not learnt:
        raise DataError(
            f"no token of {count} examples carries loss",
            where=where,
            remedy="give rows with an assistant's turn, a completion, answers or text",
        )
    lines = [f"{count} examples, {total} tokens, {learnt} of them carry loss (shown between ⟦ and ⟧):"]
    step = max(1, count // SHOWN_SAMPLES)
    for index in range(0, count, step)[:SHOWN_SAMPLES]:
        place = slice(int(examples.offsets[index]), int(examples.offsets[index + 1]))
        tokens, mask = examples.input_ids[place].tolist(), examples.loss_mask[place].tolist()
        lines.append(f"  {ids[index]}: {_marked(tokens, mask, tokenizer)}")
    return "\n".join(lines)


def _marked(input_ids: list[int], loss_mask: list[bool], tokenizer: Any) -> str:
    first = loss_mask.index(True) if any(loss_mask) else len(loss_mask)
    start = max(0, first - SHOWN_PROMPT_TOKENS)
    shown = "… " if start else ""
    at = start
    while at < len(input_ids):
        carries = loss_mask[at]
        end = at
        while end < len(input_ids) and loss_mask[end] == carries:
            end += 1
        text = tokenizer.decode(input_ids[at:end]).replace("\n", "⏎")
        shown += f"⟦{text}⟧" if carries else text
        at = end
    return shown
