"""Chat templates that refuse: as Gemma's a system turn, as Mistral's roles that don't alternate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_tokenizer
from tokenizers import pre_tokenizers

from tandem.errors import InputError, ModelError, SpecError
from tandem.models.engines import GenerationRequest
from tandem.models.engines.prompting import check_template, encode, is_plain, load_tokenizer, token_ids
from tandem.specs.base import PromptSpec

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
)
USER = {"role": "user", "content": "Why?"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    write_tokenizer(tmp_path)
    return load_tokenizer(tmp_path)


def test_messages_that_a_template_refuses_are_named_with_its_words(tokenizer: Any) -> None:
    tokenizer.chat_template = ALTERNATING
    assert token_ids(tokenizer, [USER]) == token_ids(tokenizer, "Why?")
    with pytest.raises(InputError, match="refuses the messages: roles must alternate") as caught:
        token_ids(tokenizer, [USER, USER])
    assert (caught.value.where, caught.value.remedy) == (tokenizer.name_or_path, None)


def test_a_refused_system_turn_has_a_remedy(tokenizer: Any) -> None:
    tokenizer.chat_template = NO_SYSTEM
    with pytest.raises(InputError, match=r"System role not supported \(set the system prompt .* to an empty string\)"):
        token_ids(tokenizer, [SYSTEM, USER])


def test_of_several_requests_the_refused_one_is_named(tokenizer: Any) -> None:
    tokenizer.chat_template = NO_SYSTEM
    requests = [GenerationRequest([USER], 1), GenerationRequest([SYSTEM, USER], 1)]
    with pytest.raises(InputError, match=r"request 1: .*System role not supported"):
        encode(tokenizer, requests, max_model_len=100, adapters=())


@pytest.mark.parametrize(
    ("template", "prompt", "error"),
    [
        (None, {}, None),
        (NO_SYSTEM, {"system": ""}, None),
        (NO_SYSTEM, {"system": "", "system_context": ""}, None),
        (NO_SYSTEM, {}, r'^prompt.system: .*System role not supported \(set `prompt.system: ""`'),
        (NO_SYSTEM, {"system": "", "system_context": "Use the documents."}, r"^prompt.system_context: .*not supported"),
    ],
)
def test_a_prompt_whose_system_turn_a_template_refuses(
    tokenizer: Any, template: str | None, prompt: dict[str, str], error: str | None
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    if error is None:
        check_template(tokenizer, PromptSpec(**prompt))
        return
    with pytest.raises(SpecError, match=error):
        check_template(tokenizer, PromptSpec(**prompt))


def test_a_template_that_refuses_every_question_is_the_models_fault(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('tools only') }}"
    with pytest.raises(ModelError, match="tools only") as caught:
        check_template(tokenizer, PromptSpec(system=""))
    assert caught.value.where == tokenizer.name_or_path


def test_a_plain_tokenizer_gives_the_same_ids_without_pytorch(tokenizer: Any, tmp_path: Path) -> None:
    assert is_plain(tokenizer, tmp_path)
    code = (
        "import json, sys; from pathlib import Path\n"
        "from tandem.models.engines.prompting import load_plain_tokenizer, token_ids\n"
        "tokenizer = load_plain_tokenizer(Path(sys.argv[1]))\n"
        "ids = token_ids(tokenizer, json.loads(sys.argv[2]))\n"
        "print(json.dumps([ids, 'torch' in sys.modules]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), json.dumps([SYSTEM, USER])]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(made) == [token_ids(tokenizer, [SYSTEM, USER]), False]


def test_a_tokenizer_that_its_file_does_not_describe_is_not_plain(tokenizer: Any, tmp_path: Path) -> None:
    before = tokenizer.backend_tokenizer.pre_tokenizer
    # As GPT-2's class sets it, whatever the file has.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), before])
    assert not is_plain(tokenizer, tmp_path)
    tokenizer.backend_tokenizer.pre_tokenizer = before
    assert is_plain(tokenizer, tmp_path)
    tokenizer.eos_token = "<|im_start|>"
    assert not is_plain(tokenizer, tmp_path)


def test_a_model_without_a_tokenizer_file_is_not_plain(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").unlink()
    assert not is_plain(tokenizer, tmp_path)
