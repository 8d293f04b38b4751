"""Chat messages to token ids, the same for every engine."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.config.light_imports import skip_scipy
from tandem.errors import InputError, ModelError, SpecError

if TYPE_CHECKING:
    from tandem.models.engines.protocol import GenerationRequest
    from tandem.specs.base import PromptSpec


def load_tokenizer(model: Path) -> Any:
    """The model's tokenizer, which must have a chat template.

    Raises:
        ModelError: It has none.
    """
    skip_scipy()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ModelError(
            "its tokenizer has no chat template", where=str(model), remedy="use an instruction-tuned model, or add one"
        )
    return tokenizer


def load_plain_tokenizer(model: Path) -> Any:
    """As `load_tokenizer`, by the model's ``tokenizer.json`` alone, for who only counts tokens: see `is_plain`.

    transformers imports PyTorch with the class that a model names for its tokenizer: 9 s, and 630 MiB for 134.
    """
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(model)


def is_plain(tokenizer: Any, model: Path) -> bool:
    """Whether `load_plain_tokenizer` gives the same tokenizer: a model's class may make another of the same file.

    Args:
        tokenizer: From `load_tokenizer`.
        model: The model's folder.
    """
    try:
        plain = load_plain_tokenizer(model)
        return bool(_deciding(plain) == _deciding(tokenizer))
    except Exception:  # noqa: BLE001 - whatever it lacks: there is the other
        return False


def _deciding(tokenizer: Any) -> tuple[Any, ...]:
    """What decides token ids: normalizer to post-processor, the tokens that stand in templates, the template."""
    return tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template


def check_template(tokenizer: Any, prompt: PromptSpec) -> None:
    """That the model's chat template takes a question, alone and after the prompt's system turns.

    Raises:
        ModelError: It refuses any question.
        SpecError: It refuses a system turn, and the prompt has one.
    """
    question = {"role": "user", "content": "?"}
    try:
        token_ids(tokenizer, [question])
    except InputError as error:
        remedy = "use an instruction-tuned model, or mend its template"
        raise ModelError(error.what, where=error.where, remedy=remedy) from None
    for field in ("system", "system_context"):
        text = getattr(prompt, field)
        if not text:
            continue
        try:
            token_ids(tokenizer, [{"role": "system", "content": text}, question])
        except InputError as error:
            remedy = f'set `prompt.{field}: ""`, and say it in prompt.question and prompt.context'
            raise SpecError(error.what, where=f"prompt.{field}", remedy=remedy) from None


def token_ids(tokenizer: Any, prompt: Sequence[dict[str, str]] | str) -> list[int]:
    """Token ids of chat messages up to where the assistant's turn begins, or of a text.

    Raises:
        InputError: The model's chat template refuses the messages.
    """
    from jinja2.exceptions import TemplateError

    ids: list[int]
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
        return ids
    try:
        ids = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=True, return_dict=False)
    except TemplateError as error:
        # Templates raise by themselves what they can't take: a system turn, roles that don't alternate.
        hint = "set the system prompt (prompt.system, classify_prompt.system) to an empty string"
        raise InputError(
            f"this model's chat template refuses the messages: {error.message}",
            where=str(tokenizer.name_or_path),
            remedy=hint if prompt[0]["role"] == "system" else None,
        ) from None
    return ids


def encode(
    tokenizer: Any, requests: Sequence[GenerationRequest], *, max_model_len: int, adapters: Container[str]
) -> list[list[int]]:
    """Token ids of each request's prompt, once all requests are known to be possible.

    Raises:
        InputError: Names the index of a request whose adapter is unknown, which the chat template refuses, or that
            doesn't fit.
    """
    prompts = []
    for index, request in enumerate(requests):
        if request.adapter is not None and request.adapter not in adapters:
            raise InputError(f"no adapter {request.adapter!r} is loaded", where=f"request {index}")
        try:
            ids = token_ids(tokenizer, request.messages)
        except InputError as error:
            raise InputError(error.what, where=f"request {index}", remedy=error.remedy) from None
        if len(ids) + request.max_tokens > max_model_len:
            raise InputError(
                f"{len(ids)} tokens of prompt and {request.max_tokens} of answer exceed max_model_len {max_model_len}",
                where=f"request {index}",
                remedy="shorten the prompt, or raise engine.max_model_len",
            )
        prompts.append(ids)
    return prompts
