from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from stand_ins.world import make_cluster

from tandem.artifacts.job import JobContext
from tandem.data.splits import question_key
from tandem.errors import DataError
from tandem.retrieval import retriever as retrieval
from tandem.retrieval.retriever import Passage
from tandem.specs.finetune import FinetuneSpec
from tandem.specs.search import SearchSpec
from tandem.training.data.dataset import Examples
from tandem.training.data.prepare import prepare


def passage(text: str, source: str = "a.md") -> Passage:
    return Passage(
        id=text, source=source, title="", section="", text=text, start=0, end=len(text), score=1.0, tenant=None
    )


class FakeRetriever:
    """Finds the document that names the question's number, below others."""

    snapshot = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def search(self, questions: Sequence[str], how: SearchSpec) -> list[list[Passage]]:
        self.asked += questions
        return [
            [
                *(passage(f"noise {n}") for n in range(how.top_k - 1)),
                passage(f"{question} answer{question[-2]}", "gold.md"),
            ]
            for question in questions
        ]


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    folder = tmp_path / "jobs" / "t-1"
    folder.mkdir(parents=True)
    return JobContext("t-1", "t", folder, tmp_path, make_cluster(tmp_path))


def finetune_spec(path: Path, rows: Sequence[dict[str, Any]], **fields: Any) -> FinetuneSpec:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(path), "eval_fraction": 0.2, **fields.pop("data", {})}
    return FinetuneSpec.model_validate({"kind": "finetune", "name": "t", "model": "m", "data": data, **fields})


ROWS = [{"id": f"r{n}", "question": f"What is {n}?", "answers": [f"answer{n}"], "source": "gold.md"} for n in range(10)]


def test_rows_are_split_tokenized_and_written(context: JobContext, tokenizer: Any) -> None:
    prepared = prepare(finetune_spec(context.dir / "t.jsonl", ROWS), context, tokenizer)
    assert (prepared.examples, prepared.data["train_rows"], prepared.data["eval_rows"]) == (8, 8, 2)
    assert prepared.eval is not None
    train, held_out = Examples.load(prepared.train), Examples.load(prepared.eval)
    assert (len(train), len(held_out)) == (8, 2)
    assert sum(train.lengths) == prepared.data["train_tokens"]
    assert train.loss_tokens(range(8)) == prepared.data["train_loss_tokens"]
    assert prepared.retrieval is None


def test_the_manifest_names_what_was_trained_on_as_the_comparison_looks_it_up(
    context: JobContext, tokenizer: Any
) -> None:
    data = prepare(finetune_spec(context.dir / "t.jsonl", ROWS), context, tokenizer).data
    trained = [row for row in ROWS if row["id"] in data["train_ids"]]
    assert data["train_questions"] == sorted(question_key(str(row["question"])) for row in trained)


def test_questions_get_passages_of_the_live_collection(
    context: JobContext, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRetriever()
    monkeypatch.setattr(retrieval, "open_retriever", lambda cluster, collection: fake)
    spec = finetune_spec(
        context.dir / "t.jsonl",
        [*ROWS, {"text": "The quick brown fox"}],
        retrieval={"collection": "c", "passages": 2, "without_gold": 0.0},
    )
    prepared = prepare(spec, context, tokenizer)
    assert sorted(fake.asked) == sorted(row["question"] for row in ROWS)
    assert prepared.retrieval is not None
    assert prepared.retrieval["with_gold"] == 10
    examples = Examples.load(prepared.train)
    prompts = [
        tokenizer.decode(examples.input_ids[examples.offsets[i] : examples.offsets[i + 1]])
        for i in range(len(examples))
    ]
    assert sum("noise" in prompt and "answer" in prompt.split("<|im_start|>assistant")[0] for prompt in prompts) >= 7


def test_retrieval_for_rows_that_ask_nothing_is_refused(context: JobContext, tokenizer: Any) -> None:
    spec = finetune_spec(
        context.dir / "t.jsonl", [{"text": f"The fox {n}"} for n in range(10)], retrieval={"collection": "c"}
    )
    with pytest.raises(DataError, match="no row has a question"):
        prepare(spec, context, tokenizer)


def test_a_few_rows_that_would_be_cut_are_set_aside_and_counted(context: JobContext, tokenizer: Any) -> None:
    rows = [*ROWS, {"id": "long", "question": "What?", "answers": ["fox " * 500]}]
    data = {"max_quarantined": 0.1}
    spec = finetune_spec(context.dir / "t.jsonl", rows, data=data, schedule={"max_length": 300})
    assert prepare(spec, context, tokenizer).data["quarantined"] == 1
    record = json.loads(context.quarantine_path.read_text())
    assert record["row"] == {"id": "long"}
    with pytest.raises(DataError, match="1 of 11 rows can't be used"):
        prepare(finetune_spec(context.dir / "t.jsonl", rows, schedule={"max_length": 300}), context, tokenizer)


def test_a_file_of_its_own_is_held_out_whole(context: JobContext, tokenizer: Any) -> None:
    other = context.dir / "eval.jsonl"
    other.write_text(json.dumps({"question": "Other?", "answers": ["yes"]}) + "\n")
    prepared = prepare(finetune_spec(context.dir / "t.jsonl", ROWS, data={"eval": str(other)}), context, tokenizer)
    assert (prepared.data["train_rows"], prepared.data["eval_rows"]) == (10, 1)


def test_without_a_share_to_evaluate_on_there_is_none(context: JobContext, tokenizer: Any) -> None:
    prepared = prepare(finetune_spec(context.dir / "t.jsonl", ROWS, data={"eval_fraction": 0.0}), context, tokenizer)
    assert prepared.eval is None
    assert prepared.examples == 10


def test_shards_are_one_set(context: JobContext, tokenizer: Any) -> None:
    whole = prepare(finetune_spec(context.dir / "t.jsonl", ROWS), context, tokenizer).data
    (context.dir / "shards").mkdir()
    for number, rows in enumerate((ROWS[:4], ROWS[4:], ROWS[:1])):
        finetune_spec(context.dir / "shards" / f"{number}.jsonl", rows)
    data = {"train": str(context.dir / "shards"), "max_quarantined": 0.1}
    parts = prepare(finetune_spec(context.dir / "t.jsonl", ROWS, data=data), context, tokenizer).data
    assert parts["quarantined"] == 1  # the row that stands in two shards
    assert {**parts, "quarantined": 0} == whole


def test_evaluation_rows_none_of_which_can_be_used_are_refused(context: JobContext, tokenizer: Any) -> None:
    other = context.dir / "eval.jsonl"
    other.write_text("")
    with pytest.raises(DataError, match="no rows in it"):
        prepare(finetune_spec(context.dir / "t.jsonl", ROWS, data={"eval": str(other)}), context, tokenizer)


def test_a_share_that_leaves_nothing_to_learn_from_is_refused(context: JobContext, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="every row that can be used was held out"):
        prepare(finetune_spec(context.dir / "t.jsonl", ROWS, data={"eval_fraction": 1.0}), context, tokenizer)
