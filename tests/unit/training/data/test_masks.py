"""Which tokens carry loss, for the structure of five families' chat templates and for what they do to a chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import DataError, ModelError
from tandem.training.data.masks import padding_id, tokenize_chat, tokenize_completion, tokenize_text

SINGLE = (("user", "What?"), ("assistant", "The fox"))
MULTI = (("user", "A?"), ("assistant", "one"), ("user", "B?"), ("assistant", "two"))


@dataclass(frozen=True)
class Family:
    """The structure of a template, and what of each chat carries loss under it."""

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    single: str
    multi: str
    system: str | None  # for MULTI with a system turn before it; None where the template refuses one


CHATML = Family(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|im_start|>", "<|im_end|>"),
    None,
    "<|im_end|>",
    "The fox<|im_end|>",
    "one<|im_end|>two<|im_end|>",
    "one<|im_end|>two<|im_end|>",
)
# Strips content, begins with a token of its own, and ends turns with a token that isn't the end of sequence.
LLAMA3 = Family(
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "The fox<|eot_id|>",
    "one<|eot_id|>two<|eot_id|>",
    "one<|eot_id|>two<|eot_id|>",
)
# No generation prompt; the system prompt stands in the last question, and so leaves the earlier ones as they follow.
MISTRAL = Family(
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}{% set ns = namespace(last=-1) %}"
    "{% for m in turns %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
    "[INST] {{ (system if loop.index0 == ns.last else '') + m.content }}[/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
    ("<s>", "</s>", "[INST]", "[/INST]"),
    "<s>",
    "</s>",
    " The fox</s>",
    " one</s> two</s>",
    " two</s>",
)
# Calls the assistant "model", strips content, and raises on a system turn and on roles that don't alternate.
GEMMA = Family(
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    "<bos>",
    "<eos>",
    "The fox<end_of_turn>",
    "one<end_of_turn>two<end_of_turn>",
    None,
)
# The last answer gets a block of thoughts, empty if there are none; earlier ones lose theirs.
QWEN3 = Family(
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set answer = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thoughts = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m.content "
    "else '' %}{% if loop.last %}<think>\n{{ thoughts }}\n</think>\n\n{% endif %}{{ answer }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ("<|im_start|>", "<|im_end|>"),
    None,
    "<|im_end|>",
    "<think>\n\n</think>\n\nThe fox<|im_end|>",
    "<think>\n\n</think>\n\ntwo<|im_end|>",
    "<think>\n\n</think>\n\ntwo<|im_end|>",
)
FAMILIES = {"chatml": CHATML, "llama-3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "qwen3": QWEN3}


def chat(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def learnt(tokenizer: Any, tokens: tuple[list[int], list[bool]]) -> str:
    ids, mask = tokens
    assert len(ids) == len(mask)
    assert not mask[0]
    return str(tokenizer.decode([token for token, carries in zip(ids, mask, strict=True) if carries]))


@pytest.fixture
def of(tiny_model_path: Path) -> Callable[[Family], Any]:
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    def make(family: Family) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
        tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in family.special])
        tokenizer.bos_token, tokenizer.eos_token = family.bos, family.eos
        tokenizer.chat_template = family.template
        return tokenizer

    return make


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def family(request: pytest.FixtureRequest) -> Family:
    return request.param  # type: ignore[no-any-return]


def test_a_single_answer_carries_loss_with_the_token_that_ends_it(of: Callable[[Family], Any], family: Family) -> None:
    tokenizer = of(family)
    assert learnt(tokenizer, tokenize_chat(tokenizer, chat(SINGLE))) == family.single


def test_every_turn_that_stays_as_it_was_said_carries_loss(of: Callable[[Family], Any], family: Family) -> None:
    tokenizer = of(family)
    assert learnt(tokenizer, tokenize_chat(tokenizer, chat(MULTI))) == family.multi


def test_a_system_turn_carries_no_loss_or_is_refused_with_the_templates_words(
    of: Callable[[Family], Any], family: Family
) -> None:
    tokenizer = of(family)
    messages = chat([("system", "Be brief."), *MULTI])
    if family.system is None:
        with pytest.raises(DataError, match="System role not supported; for questions, set prompt"):
            tokenize_chat(tokenizer, messages)
    else:
        assert learnt(tokenizer, tokenize_chat(tokenizer, messages)) == family.system


def test_what_stands_before_an_answer_is_the_prompt_as_it_is_served(
    of: Callable[[Family], Any], family: Family
) -> None:
    tokenizer = of(family)
    ids, mask = tokenize_chat(tokenizer, chat(SINGLE))
    served = tokenizer.apply_chat_template(chat(SINGLE[:1]), add_generation_prompt=True, return_dict=False)
    assert ids[: mask.index(True)] == served
    assert ids.count(tokenizer.bos_token_id) == (0 if family.bos is None else 1)  # the template's, and no second one


def test_white_space_that_the_template_strips_is_not_learnt(of: Callable[[Family], Any]) -> None:
    tokenizer = of(LLAMA3)
    tokens = tokenize_chat(tokenizer, chat([("user", " What? \n"), ("assistant", "\n The fox  ")]))
    assert learnt(tokenizer, tokens) == "The fox<|eot_id|>"


def test_white_space_that_the_template_keeps_is_learnt(of: Callable[[Family], Any]) -> None:
    tokenizer = of(CHATML)
    tokens = tokenize_chat(tokenizer, chat([("user", "What?"), ("assistant", "\n The fox  ")]))
    assert learnt(tokenizer, tokens) == "\n The fox  <|im_end|>"


def test_the_thoughts_of_the_last_answer_are_learnt_and_of_earlier_ones_not(of: Callable[[Family], Any]) -> None:
    tokenizer = of(QWEN3)
    turns = [("user", "A?"), ("assistant", "<think>\nh1\n</think>\n\none"), ("user", "B?")]
    last = ("assistant", "<think>\nh2\n</think>\n\ntwo")
    ids, mask = tokenize_chat(tokenizer, chat([*turns, last]))
    assert learnt(tokenizer, (ids, mask)) == "<think>\nh2\n</think>\n\ntwo<|im_end|>"
    assert "h1" not in tokenizer.decode(ids)


def test_without_a_generation_prompt_the_header_is_what_the_model_must_say(of: Callable[[Family], Any]) -> None:
    tokenizer = of(CHATML)
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    tokens = tokenize_chat(tokenizer, chat(SINGLE))
    assert learnt(tokenizer, tokens) == "<|im_start|>assistant\nThe fox<|im_end|>"


def test_a_prompt_that_opens_thoughts_which_the_answer_lacks_is_refused(of: Callable[[Family], Any]) -> None:
    tokenizer = of(CHATML)
    tokenizer.chat_template = CHATML.template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(DataError, match="rewrites the prompt"):
        tokenize_chat(tokenizer, chat(SINGLE))
    tokens = tokenize_chat(tokenizer, chat([SINGLE[0], ("assistant", "<think>\nhm\n</think>\n\nThe fox")]))
    assert learnt(tokenizer, tokens) == "hm\n</think>\n\nThe fox<|im_end|>"


def test_a_template_that_leaves_the_answer_out_is_refused(of: Callable[[Family], Any]) -> None:
    tokenizer = of(CHATML)
    tokenizer.chat_template = CHATML.template.replace(
        "{{ m.content }}", "{% if m.role == 'user' %}{{ m.content }}{% endif %}"
    )
    with pytest.raises(DataError, match="leaves the answer out"):
        tokenize_chat(tokenizer, chat(SINGLE))


def test_loss_lies_on_the_answer_and_its_end_of_turn_alone(tokenizer: Any) -> None:
    ids, mask = tokenize_chat(tokenizer, chat(SINGLE))
    assert learnt(tokenizer, (ids, mask)) == "The fox<|im_end|>"
    assert tokenizer.decode(ids) == "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nThe fox<|im_end|>\n"


def test_a_question_in_the_answer_is_not_taken_for_the_prompt(tokenizer: Any) -> None:
    ids, mask = tokenize_chat(tokenizer, chat([("user", "fox"), ("assistant", "fox")]))
    assert learnt(tokenizer, (ids, mask)) == "fox<|im_end|>"
    assert sum(mask) == mask[mask.index(True) :].count(True)


def test_without_an_end_of_turn_token_the_end_of_sequence_is_learnt(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    ids, mask = tokenize_chat(tokenizer, chat([("user", "What?"), ("assistant", "dog")]))
    assert learnt(tokenizer, (ids, mask)) == "dog" + tokenizer.eos_token
    assert ids[-1] == tokenizer.eos_token_id


def test_a_template_that_hides_the_prompt_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}{{ messages[-1]['content'] }}"
    with pytest.raises(DataError, match="rewrites the prompt"):
        tokenize_chat(tokenizer, chat(SINGLE))


def test_without_any_token_that_ends_a_turn_the_model_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        tokenize_text(tokenizer, "The fox", 64)
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        tokenize_completion(tokenizer, "The", " fox")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        tokenize_chat(tokenizer, chat(SINGLE))


def test_an_end_of_turn_in_the_template_is_enough(of: Callable[[Family], Any]) -> None:
    tokenizer = of(GEMMA)
    tokenizer.eos_token = None
    assert learnt(tokenizer, tokenize_chat(tokenizer, chat(SINGLE))) == GEMMA.single


def test_a_completion_is_joined_to_its_prompt_as_it_is(tokenizer: Any) -> None:
    ids, mask = tokenize_completion(tokenizer, "The quick brown", " fox jumps")
    assert tokenizer.decode(ids) == "The quick brown fox jumps" + tokenizer.eos_token
    assert learnt(tokenizer, (ids, mask)) == " fox jumps" + tokenizer.eos_token


def test_text_is_learnt_whole_but_for_its_first_token_and_ends(tokenizer: Any) -> None:
    ((ids, mask),) = tokenize_text(tokenizer, "The quick brown fox", 64)
    assert mask == [False] + [True] * (len(ids) - 1)
    assert ids[-1] == tokenizer.eos_token_id


def test_long_text_is_cut_into_windows_that_lose_nothing(tokenizer: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    windows = tokenize_text(tokenizer, text, 16)
    assert max(len(ids) for ids, _ in windows) == 16
    assert tokenizer.decode([token for ids, _ in windows for token in ids]) == text + tokenizer.eos_token


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_of_sequence(tokenizer: Any) -> None:
    assert padding_id(tokenizer) == tokenizer.pad_token_id
    tokenizer.pad_token = None
    assert padding_id(tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert padding_id(tokenizer) == 0
