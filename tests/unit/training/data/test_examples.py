from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tandem.data.rows import TrainRow, parse_training
from tandem.errors import DataError, ModelError
from tandem.specs.base import PromptSpec
from tandem.training.data.dataset import Examples
from tandem.training.data.examples import Example, build_examples, preflight

PROMPT = PromptSpec()


@dataclass(frozen=True)
class Piece:
    text: str
    source: str = "a.md"
    section: str = "A"


def learnt(tokenizer: Any, ids: list[int] | tuple[int, ...], mask: list[bool] | tuple[bool, ...]) -> str:
    return str(tokenizer.decode([token for token, carries in zip(ids, mask, strict=True) if carries]))


def packed(examples: Sequence[Example]) -> Examples:
    return Examples.pack([(example.input_ids, example.loss_mask) for example in examples])


def qa(id: str = "1", question: str = "What is the default?", answer: str = "None") -> TrainRow:
    return TrainRow(id, question=question, answers=(answer, "another"))


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


def test_a_prompt_with_its_completion_needs_no_chat_template(tokenizer: Any) -> None:
    row = parse_training({"prompt": "The quick", "completion": " fox"})
    options: dict[str, Any] = {"prompt": PROMPT, "max_length": 100, "where": "t"}
    ((as_chat,), _) = build_examples([row], [()], tokenizer, **options)
    assert learnt(tokenizer, as_chat.input_ids, as_chat.loss_mask) == " fox<|im_end|>"
    assert "assistant" in tokenizer.decode(as_chat.input_ids)
    tokenizer.chat_template = None
    ((joined,), _) = build_examples([row], [()], tokenizer, **options)
    assert tokenizer.decode(joined.input_ids) == "The quick fox" + tokenizer.eos_token
    with pytest.raises(ModelError, match="no chat template"):
        build_examples([TrainRow("m", messages=row.messages)], [()], tokenizer, **options)


def test_what_a_template_refuses_is_set_aside_with_its_words(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    examples, faults = build_examples([qa()], [()], tokenizer, prompt=PROMPT, max_length=100, where="t")
    assert not examples
    assert "the chat template refuses it: roles must alternate" in faults[0].reason


def test_the_preflight_marks_what_carries_loss(tokenizer: Any) -> None:
    examples, _ = build_examples([qa(answer="42")], [()], tokenizer, prompt=PROMPT, max_length=512, where="t")
    shown = preflight(packed(examples), ["1"], tokenizer, where="t")
    assert "⟦42<|im_end|>⟧" in shown
    assert shown.count("⟦") == 2  # in the heading, and once in the sample
    assert "What is the default?" in shown


def test_a_set_in_which_nothing_carries_loss_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no token of 1 examples carries loss"):
        preflight(packed([Example("1", (5, 6, 7), (False,) * 3)]), ["1"], tokenizer, where="t.jsonl")
