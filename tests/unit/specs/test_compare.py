from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tandem.specs.compare import CompareSpec
from tandem.specs.pipeline import PipelineSpec


def classes(**changes: Any) -> CompareSpec:
    values = {"kind": "compare", "task": "classification", "name": "c", "model": "m", "train": "rows.csv"}
    return CompareSpec.model_validate(values | changes)


def test_labels_are_decided_by_accuracy_unless_it_is_said() -> None:
    assert classes().metric == "accuracy"
    assert classes(primary="macro_f1").metric == "macro_f1"
    with pytest.raises(ValidationError, match="primary: for classification it is one of accuracy, macro_f1"):
        classes(primary="em")


@pytest.mark.parametrize("arm", ["tuned", "tuned_rag"])
def test_a_trained_arm_needs_a_classifier(arm: str) -> None:
    with pytest.raises(ValidationError, match="classifier is needed"):
        classes(arms=["base", arm])
    assert classes(arms=["base", arm], classifier="artifact:c").adapters("classifier") == ("artifact:c",)
    assert classes(arms=["base", arm], classifier=["a", "b"]).adapters("classifier") == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": ["base", "raft"]}, "'raft' is none for classification"),
        ({"arms": ["base", "oracle"]}, "'oracle' is none for classification"),
        ({"train": None}, "train is needed"),
        ({"collection": "docs"}, "collection: only for task: generation"),
        ({"adapter": "a"}, "adapter: only for task: generation"),
        ({"slices": ["kind"]}, "slices: only for task: generation"),
        ({"near_duplicates": "exclude"}, "near_duplicates: only for task: generation"),
        ({"max_tokens": 9}, "max_tokens: only for task: generation"),
        ({"engine": {"name": "vllm"}}, "vllm can't weigh given labels"),
        ({"eval": "e.csv", "eval_fraction": 0.5}, "eval_fraction: eval says what is asked"),
        ({"neighbours": {"embedder": {"workers": 2}}}, "embedder.workers: of an index job"),
        ({"neighbours": {"embedder": {"gpus": 1}}}, "embedder.gpus: of an index job"),
        ({"neighbours": {"embedder": {"query_prompt": "query: "}}}, "embedder.query_prompt: of an index job"),
        ({"neighbours": {"weight": 1.5}}, "less than or equal to 1"),
        ({"neighbours": {"temperature": 0}}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_for_labels_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        classes(**changes)


def test_the_canonical_form_can_be_read_again() -> None:
    embedder = {"model": "e5", "batch_size": 8, "dtype": "float32", "passage_prompt": "passage: "}
    spec = classes(eval="e.csv", neighbours={"embedder": embedder})
    assert CompareSpec.model_validate(spec.canonical()) == spec


@pytest.mark.parametrize(
    ("field", "value"),
    [("classifier", "x"), ("train", "x"), ("eval_fraction", 0.5), ("neighbours", {"k": 9})],
)
def test_what_is_for_labels_makes_no_sense_for_questions(field: str, value: Any) -> None:
    values = {"kind": "compare", "name": "c", "model": "m", "eval": "e.jsonl", "collection": "docs", field: value}
    with pytest.raises(ValidationError, match=f"{field}: only for task: classification"):
        CompareSpec.model_validate(values)


def test_a_pipelines_step_may_train_the_classifier() -> None:
    tune = {"kind": "finetune", "task": "classification", "name": "t", "model": "m", "data": {"train": "rows.csv"}}
    compare = classes(arms=["base", "tuned"], classifier="${tune.artifact}").canonical()
    pipeline = PipelineSpec.model_validate(
        {"kind": "pipeline", "name": "p", "steps": {"tune": {"spec": tune}, "compare": {"spec": compare}}}
    )
    assert pipeline.steps["compare"].needs == ("tune",)
