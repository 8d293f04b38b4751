"""Token ids, and which of them carry loss: for chats, for a prompt with its completion, and for plain text.

Loss lies on what the model is to say: the assistant's turns with the token that ends them, a completion with the end of
sequence, all of a text. Nothing is predicted for a first token, since nothing stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandem.errors import DataError, ModelError

Tokens = tuple[list[int], list[bool]]  # input_ids and loss_mask, equally long


def tokenize_chat(tokenizer: Any, messages: Sequence[dict[str, str]]) -> Tokens:
    """Token ids of a chat, and which of them the assistant says.

    The spans are found as the difference between the template applied before a turn (with the generation prompt) and
    through it, so templates need no ``{% generation %}`` marks, and what precedes an answer is what is served. Where a
    template has no generation prompt, the model must say the turn's header itself, which then carries loss too. White
    space that a template puts after the end-of-turn token carries none; where a template has no end-of-turn token, the
    tokenizer's end of sequence is added. An earlier turn that the template rewrites once others follow (dropped
    reasoning, a system prompt that moves to the last question) carries no loss: it isn't what was said.

    Args:
        tokenizer: A fast tokenizer with a chat template.
        messages: Turns of ``{"role", "content"}``; the last is the assistant's.

    Returns:
        (input_ids, loss_mask), equally long.

    Raises:
        DataError: The template refuses the chat, leaves the answer out, or doesn't keep the beginning of a chat when
            the last turn is added.
        ModelError: Nothing ends a turn: neither the template nor the tokenizer has a token for it.
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
    special = _special_ids(tokenizer)
    said = [token for token, carries in zip(ids, mask, strict=True) if carries]
    if said and all(token in special for token in said):
        raise DataError("the chat template leaves the answer out: only marks carry loss")
    last = max((i for i, carries in enumerate(mask) if carries), default=None)
    if last is not None and ids[last] not in special:
        ids, mask = [*ids[: last + 1], end_of_sequence(tokenizer)], [*mask[: last + 1], True]
    return ids, [carries and position > 0 for position, carries in enumerate(mask)]


def tokenize_completion(tokenizer: Any, prompt: str, completion: str) -> Tokens:
    """Token ids of a prompt and its completion, joined as they are: for a model without a chat template.

    Nothing is put between the two, so the white space that belongs there must be in one of them. A token that reaches
    across the border belongs to the completion.

    Args:
        tokenizer: A fast tokenizer; what it puts before and after a text it puts here too.
        prompt: Carries no loss.
        completion: Carries loss, and so does the end of sequence after it.

    Returns:
        (input_ids, loss_mask), equally long.

    Raises:
        ModelError: The tokenizer has no end of sequence.
    """
    encoded = tokenizer(prompt + completion, return_offsets_mapping=True)
    ids: list[int] = list(encoded["input_ids"])
    span = (len(prompt), len(prompt) + len(completion))
    mask = [_inside(begin, end, span) for begin, end in encoded["offset_mapping"]]
    eos = end_of_sequence(tokenizer)
    if ids[-1] == eos:
        mask[-1] = True
    else:
        ids, mask = [*ids, eos], [*mask, True]
    return ids, [carries and position > 0 for position, carries in enumerate(mask)]


def tokenize_text(tokenizer: Any, text: str, max_length: int) -> list[Tokens]:
    """Token ids of plain text, all of which is to be learnt, cut into windows of at most `max_length`.

    Returns:
        (input_ids, loss_mask) of each window; the last ends with the end of sequence.

    Raises:
        ModelError: The tokenizer has no end of sequence.
    """
    ids: list[int] = list(tokenizer(text)["input_ids"])
    eos = end_of_sequence(tokenizer)
    if not ids or ids[-1] != eos:
        ids.append(eos)
    windows = [ids[at : at + max_length] for at in range(0, len(ids), max_length)]
    return [(window, [False] + [True] * (len(window) - 1)) for window in windows if len(window) > 1]


def end_of_sequence(tokenizer: Any) -> int:
    """The id of the token that ends a sequence.

    Raises:
        ModelError: The tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "its tokenizer has no end-of-sequence token: the model could never learn to stop",
            where=str(tokenizer.name_or_path),
            remedy="set `eos_token` in its tokenizer_config.json",
        )
    return int(tokenizer.eos_token_id)


def padding_id(tokenizer: Any) -> int:
    """The id that fills up rows: it is masked everywhere, so any will do where a tokenizer has none of its own."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(pad) if pad is not None else 0


def _render(tokenizer: Any, messages: Sequence[dict[str, str]], *, generation_prompt: bool = False) -> str:
    from jinja2.exceptions import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt
        )
    except TemplateError as error:
        # Templates raise by themselves what they can't take: a system turn, roles that don't alternate.
        hint = "; for questions, set prompt.system to an empty string" if messages[0]["role"] == "system" else ""
        raise DataError(f"the chat template refuses it: {error.message}{hint}") from None
    return text


def _special_ids(tokenizer: Any) -> set[int]:
    # A template's end of turn need not be one of the tokenizer's named tokens (Llama 3's <|eot_id|> isn't).
    marked = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def _inside(begin: int, end: int, span: tuple[int, int]) -> bool:
    # Byte-level tokenizers give white space a width of zero; a token across the border belongs to the answer.
    return span[0] <= begin < span[1] if begin == end else begin < span[1] and end > span[0]
