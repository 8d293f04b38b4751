from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from stand_ins.world import make_cluster

from tandem.artifacts.job import JobContext
from tandem.data.duplicates import text_digest
from tandem.errors import DataError, ModelError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.classification.prepare import ensure_padding, prepare_labelled
from tandem.training.classification.task import LabelledExamples

ROWS = [{"text": f"the fox number {n} jumps", "label": "fox"} for n in range(12)]
ROWS += [{"text": f"a lazy dog, dog {n}", "label": "dog"} for n in range(4)]


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    folder = tmp_path / "jobs" / "t-1"
    folder.mkdir(parents=True)
    return JobContext("t-1", "t", folder, tmp_path, make_cluster(tmp_path))


def classify_spec(folder: Path, rows: Sequence[dict[str, Any]], **fields: Any) -> FinetuneSpec:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = fields.pop("data", {})
    data = {"train": str(path), **({} if "eval" in data else {"eval_fraction": 0.25}), **data}
    return FinetuneSpec.model_validate(
        {"kind": "finetune", "name": "t", "model": "m", "data": data, "task": "classification"} | fields
    )


def held_out_file(folder: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    path = folder / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"eval": str(path)}


def test_rows_become_tokens_with_classes(context: JobContext, tokenizer: Any, tiny_model_path: Path) -> None:
    spec = classify_spec(context.dir, [*ROWS, ROWS[0]], class_weights="balanced")
    prepared, classes = prepare_labelled(spec, context, tokenizer, tiny_model_path)
    assert classes.labels == ("dog", "fox")
    assert prepared.data["labels"] == {"dog": {"train": 3, "eval": 1}, "fox": {"train": 9, "eval": 3}}
    assert prepared.eval is not None
    train, held_out = LabelledExamples.load(prepared.train), LabelledExamples.load(prepared.eval)
    assert (len(train), len(held_out)) == (12, 4)
    assert sorted(set(train.weights.tolist())) == pytest.approx([12 / (2 * 9), 12 / (2 * 3)])
    assert [classes.labels[label] for label in held_out.labels] == [row.label for row in classes.held_out]
    assert prepared.data["duplicates"] == 1
    assert "1 rows have the words and the label of another one" in classes.notes[0]


@pytest.mark.parametrize("chosen", [True, False])
def test_the_texts_by_which_a_checkpoint_is_chosen_are_recorded(
    context: JobContext, tokenizer: Any, tiny_model_path: Path, chosen: bool
) -> None:
    spec = classify_spec(context.dir, ROWS, early_stopping={"enabled": chosen})
    prepared, classes = prepare_labelled(spec, context, tokenizer, tiny_model_path)
    held_out = sorted(text_digest(row.text) for row in classes.held_out)
    assert prepared.data["selection_texts"] == (held_out if chosen else [])


def test_long_texts_are_cut_and_counted(context: JobContext, tokenizer: Any, tiny_model_path: Path) -> None:
    rows = [*ROWS, {"text": "fox " * 400, "label": "fox"}]
    spec = classify_spec(context.dir, rows, schedule={"max_length": 32}, data={"eval_fraction": 0.0})
    prepared, classes = prepare_labelled(spec, context, tokenizer, tiny_model_path)
    assert prepared.data["truncated"] == 1
    assert max(LabelledExamples.load(prepared.train).lengths) == 32
    assert "1 of 17 texts are longer than max_length 32: what comes after it isn't read" in classes.notes
    assert "no rows to evaluate on: nothing is measured" in classes.notes
    assert prepared.eval is None


@pytest.mark.parametrize(
    ("rows", "data", "said"),
    [
        ([row for row in ROWS if row["label"] == "fox"], {}, "all 9 rows to learn from have the label 'fox'"),
        (ROWS, {"eval_fraction": 1.0}, "no row is left to learn from"),
        ([{"text": "x"}, *ROWS], {}, "1 of 17 rows can't be used, the first at .*: no `label`"),
        (
            [*ROWS, {"text": "A fox number 99", "label": "fox"}, {"text": "a fox, number 99", "label": "dog"}],
            {},
            "2 of 18 rows can't be used, the first at .*: the same text has the labels dog, fox",
        ),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    rows: list[dict[str, Any]],
    data: dict[str, Any],
    said: str,
    context: JobContext,
    tokenizer: Any,
    tiny_model_path: Path,
) -> None:
    with pytest.raises(DataError, match=said):
        prepare_labelled(classify_spec(context.dir, rows, data=data), context, tokenizer, tiny_model_path)


def test_a_label_to_evaluate_on_that_nothing_is_learnt_of_is_refused(
    context: JobContext, tokenizer: Any, tiny_model_path: Path
) -> None:
    data = held_out_file(context.dir, [{"text": "a cat", "label": "cat"}, {"text": "the fox", "label": "fox"}])
    with pytest.raises(DataError, match=r"labels to evaluate on that no training row has: 'cat' \(1 rows\)") as caught:
        prepare_labelled(classify_spec(context.dir, ROWS, data=data), context, tokenizer, tiny_model_path)
    assert caught.value.where == data["eval"]


def test_a_label_that_is_not_evaluated_is_said(context: JobContext, tokenizer: Any, tiny_model_path: Path) -> None:
    data = held_out_file(context.dir, [{"text": "some other fox", "label": "fox"}])
    _, classes = prepare_labelled(classify_spec(context.dir, ROWS, data=data), context, tokenizer, tiny_model_path)
    assert "no row to evaluate on has the label 'dog': nothing is known of it" in classes.notes


def test_another_attempt_uses_what_the_first_one_prepared(
    context: JobContext, tokenizer: Any, tiny_model_path: Path
) -> None:
    spec = classify_spec(context.dir, ROWS)
    first = prepare_labelled(spec, context, tokenizer, tiny_model_path)
    classify_spec(context.dir, [{"text": f"a cat {n}", "label": label} for n in range(9) for label in ("cat", "cow")])
    assert prepare_labelled(spec, context, tokenizer, tiny_model_path) == first


def test_a_tokenizer_that_cannot_pad_pads_with_its_end_of_sequence_or_is_refused(tokenizer: Any) -> None:
    assert ensure_padding(tokenizer) is None
    tokenizer.pad_token = None
    assert "its eos_token '<|im_end|>' does, and is saved as pad_token" in str(ensure_padding(tokenizer))
    assert tokenizer.pad_token == "<|im_end|>"
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.unk_token = None
    with pytest.raises(ModelError, match="no token to pad with"):
        ensure_padding(tokenizer)


def test_a_classifier_takes_no_passages_and_a_generator_no_class_weights(context: JobContext) -> None:
    with pytest.raises(ValueError, match="a classifier has no prompt to put passages into"):
        classify_spec(context.dir, ROWS, retrieval={"collection": "c"})
    with pytest.raises(ValueError, match="class_weights: only task: classification has classes"):
        classify_spec(context.dir, ROWS, task="generation", class_weights="balanced")
