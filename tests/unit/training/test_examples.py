from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tandem.data.rows import TrainRow
from tandem.errors import DataError, ModelError
from tandem.specs.base import PromptSpec
from tandem.training.examples import Example, build_examples, preflight, tokenize_chat, tokenize_text

PROMPT = PromptSpec()


@dataclass(frozen=True)
class Piece:
    text: str
    source: str = "a.md"
    section: str = "A"


def learnt(tokenizer: Any, ids: list[int] | tuple[int, ...], mask: list[bool] | tuple[bool, ...]) -> str:
    return str(tokenizer.decode([token for token, carries in zip(ids, mask, strict=True) if carries]))


def qa(id: str = "1", question: str = "What is the default?", answer: str = "None") -> TrainRow:
    return TrainRow(id, question=question, answers=(answer, "another"))


def test_loss_lies_on_the_answer_and_its_end_of_turn_alone(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "The fox"}]
    ids, mask = tokenize_chat(tokenizer, messages)
    assert learnt(tokenizer, ids, mask) == "The fox<|im_end|>"
    assert tokenizer.decode(ids) == "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nThe fox<|im_end|>\n"


def test_what_stands_before_the_answer_is_the_prompt_as_it_is_served(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "The fox"}]
    ids, mask = tokenize_chat(tokenizer, messages)
    served = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert ids[: mask.index(True)] == served


def test_every_assistant_turn_of_a_chat_carries_loss(tokenizer: Any) -> None:
    turns = [("system", "S"), ("user", "A?"), ("assistant", "one"), ("user", "B?"), ("assistant", "two")]
    ids, mask = tokenize_chat(tokenizer, [{"role": role, "content": text} for role, text in turns])
    assert learnt(tokenizer, ids, mask) == "one<|im_end|>two<|im_end|>"


def test_a_question_in_the_answer_is_not_taken_for_the_prompt(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "fox"}, {"role": "assistant", "content": "fox"}]
    ids, mask = tokenize_chat(tokenizer, messages)
    assert learnt(tokenizer, ids, mask) == "fox<|im_end|>"
    assert sum(mask) == mask[mask.index(True) :].count(True)


def test_without_an_end_of_turn_token_the_end_of_sequence_is_learnt(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:\n{% endif %}"
    )
    ids, mask = tokenize_chat(
        tokenizer, [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "dog"}]
    )
    assert learnt(tokenizer, ids, mask) == "dog" + tokenizer.eos_token
    assert ids[-1] == tokenizer.eos_token_id


def test_an_earlier_turn_that_the_template_rewrites_carries_no_loss(tokenizer: Any) -> None:
    # As templates do that drop earlier reasoning: what is not the last turn reads "(earlier)".
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and not loop.last %}(earlier){% else %}{{ m['content'] }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = [("user", "A?"), ("assistant", "one"), ("user", "B?"), ("assistant", "two")]
    ids, mask = tokenize_chat(tokenizer, [{"role": role, "content": text} for role, text in turns])
    assert learnt(tokenizer, ids, mask) == "two<|im_end|>"


def test_a_template_that_hides_the_prompt_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}{{ messages[-1]['content'] }}"
    with pytest.raises(DataError, match="rewrites the prompt"):
        tokenize_chat(tokenizer, [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B"}])


def test_text_is_learnt_whole_but_for_its_first_token_and_ends(tokenizer: Any) -> None:
    ((ids, mask),) = tokenize_text(tokenizer, "The quick brown fox", 64)
    assert mask == [False] + [True] * (len(ids) - 1)
    assert ids[-1] == tokenizer.eos_token_id


def test_long_text_is_cut_into_windows_that_lose_nothing(tokenizer: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    windows = tokenize_text(tokenizer, text, 16)
    assert max(len(ids) for ids, _ in windows) == 16
    assert tokenizer.decode([token for ids, _ in windows for token in ids]) == text + tokenizer.eos_token


def test_passages_stand_in_the_prompt_and_the_first_answer_is_learnt(tokenizer: Any) -> None:
    examples, faults = build_examples(
        [qa()], [[Piece("the lazy dog")]], tokenizer, prompt=PROMPT, max_length=512, where="t.jsonl"
    )
    assert not faults
    assert "the lazy dog" in tokenizer.decode(examples[0].input_ids)
    assert learnt(tokenizer, examples[0].input_ids, examples[0].loss_mask) == "None<|im_end|>"


def test_a_row_whose_answer_would_be_cut_is_set_aside_with_the_reason(tokenizer: Any) -> None:
    rows = [qa("short"), qa("long", answer="fox " * 400)]
    examples, faults = build_examples(rows, [(), ()], tokenizer, prompt=PROMPT, max_length=300, where="t.jsonl")
    assert [example.id for example in examples] == ["short"]
    assert faults[0].row == {"id": "long"}
    assert "the answer would be cut" in faults[0].reason
    assert faults[0].file == "t.jsonl"


def test_at_exactly_max_length_nothing_is_cut(tokenizer: Any) -> None:
    options = {"prompt": PROMPT, "where": "t"}
    examples, _ = build_examples([qa()], [()], tokenizer, max_length=10_000, **options)
    length = len(examples[0].input_ids)
    assert build_examples([qa()], [()], tokenizer, max_length=length, **options)[0] == examples
    assert len(build_examples([qa()], [()], tokenizer, max_length=length - 1, **options)[1]) == 1


def test_a_chat_without_a_prompt_has_nothing_to_learn(tokenizer: Any) -> None:
    row = TrainRow("x", messages=[{"role": "assistant", "content": "hello"}])
    examples, faults = build_examples([row], [()], tokenizer, prompt=PROMPT, max_length=100, where="t")
    assert not examples
    assert "no token carries loss" in faults[0].reason


def test_a_model_without_chat_template_is_refused_for_questions_but_not_for_text(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        build_examples([qa()], [()], tokenizer, prompt=PROMPT, max_length=100, where="t")
    examples, _ = build_examples(
        [TrainRow("t", text="The fox")], [()], tokenizer, prompt=PROMPT, max_length=100, where="t"
    )
    assert len(examples) == 1


def test_the_preflight_marks_what_carries_loss(tokenizer: Any) -> None:
    examples, _ = build_examples([qa(answer="42")], [()], tokenizer, prompt=PROMPT, max_length=512, where="t")
    shown = preflight(examples, tokenizer, where="t")
    assert "⟦42<|im_end|>⟧" in shown
    assert shown.count("⟦") == 2  # in the heading, and once in the sample
    assert "What is the default?" in shown


def test_a_set_in_which_nothing_carries_loss_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no token of 1 examples carries loss"):
        preflight([Example("1", (5, 6, 7), (False, False, False))], tokenizer, where="t.jsonl")
