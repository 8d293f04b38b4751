"""Chat messages to token ids, the same for every engine."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import InputError, ModelError

if TYPE_CHECKING:
    from tandem.models.engines.protocol import GenerationRequest


def load_tokenizer(model: Path) -> Any:
    """The model's tokenizer, which must have a chat template.

    Raises:
        ModelError: It has none.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ModelError(
            "its tokenizer has no chat template", where=str(model), remedy="use an instruction-tuned model, or add one"
        )
    return tokenizer


def token_ids(tokenizer: Any, prompt: Sequence[dict[str, str]] | str) -> list[int]:
    """Token ids of chat messages up to where the assistant's turn begins, or of a text."""
    ids: list[int]
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=True, return_dict=False)
    return ids


def encode(
    tokenizer: Any, requests: Sequence[GenerationRequest], *, max_model_len: int, adapters: Container[str]
) -> list[list[int]]:
    """Token ids of each request's prompt, once all requests are known to be possible.

    Raises:
        InputError: Names the index of a request whose adapter is unknown, or that doesn't fit.
    """
    prompts = []
    for index, request in enumerate(requests):
        if request.adapter is not None and request.adapter not in adapters:
            raise InputError(f"no adapter {request.adapter!r} is loaded", where=f"request {index}")
        ids = token_ids(tokenizer, request.messages)
        if len(ids) + request.max_tokens > max_model_len:
            raise InputError(
                f"{len(ids)} tokens of prompt and {request.max_tokens} of answer exceed max_model_len {max_model_len}",
                where=f"request {index}",
                remedy="shorten the prompt, or raise engine.max_model_len",
            )
        prompts.append(ids)
    return prompts
