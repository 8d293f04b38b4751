from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from stand_ins.world import make_cluster

from tandem.artifacts.job import JobContext
from tandem.data.splits import question_key
from tandem.data.train_rows import SELECTION_ROWS, TRAIN_ROWS, key_bits, read_answers, read_keys, scan_asked
from tandem.errors import DataError
from tandem.retrieval import tenants
from tandem.retrieval.retriever import Passage
from tandem.specs.finetune import FinetuneSpec
from tandem.specs.search import SearchSpec
from tandem.training.data import prepare as preparing
from tandem.training.data.dataset import Examples, read_ids
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
    data = fields.pop("data", {})
    data = {"train": str(path), **({} if "eval" in data else {"eval_fraction": 0.2}), **data}
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


def trained_ids(context: JobContext) -> list[str]:
    return [id for _, ids in scan_asked(context.dir / TRAIN_ROWS) for id in ids.to_pylist()]


def test_what_was_trained_on_is_kept_as_the_comparison_looks_it_up(context: JobContext, tokenizer: Any) -> None:
    prepared = prepare(finetune_spec(context.dir / "t.jsonl", ROWS), context, tokenizer)
    trained = [row for row in ROWS if row["id"] in read_ids(prepared.train)]
    path = context.dir / TRAIN_ROWS
    assert trained_ids(context) == [row["id"] for row in trained]
    assert read_keys(path).tolist() == [key_bits(question_key(str(row["question"]))) for row in trained]
    answers = read_answers(path)
    assert answers is not None
    assert answers.tolist() == [key_bits(question_key(f"answer{str(row['id'])[1:]}")) for row in trained]
    assert not any(isinstance(value, list) for value in prepared.data.values())  # a manifest holds small facts


@pytest.mark.parametrize("chosen", [True, False])
def test_the_rows_by_which_a_checkpoint_is_chosen_are_kept(context: JobContext, tokenizer: Any, chosen: bool) -> None:
    spec = finetune_spec(context.dir / "t.jsonl", ROWS, early_stopping={"enabled": chosen})
    prepared = prepare(spec, context, tokenizer)
    assert prepared.eval is not None
    path = context.dir / SELECTION_ROWS
    held_out = [key_bits(question_key(f"What is {id[1:]}?")) for id in read_ids(prepared.eval)]
    assert (read_keys(path).tolist() if path.exists() else None) == (held_out if chosen else None)


def test_questions_get_passages_of_the_live_collection(
    context: JobContext, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRetriever()
    monkeypatch.setattr(tenants, "open_retriever", lambda cluster, collection: fake)
    spec = finetune_spec(
        context.dir / "t.jsonl",
        [*ROWS, {"text": "The quick brown fox"}],
        retrieval={"collection": "c", "passages": 2, "without_gold": 0.0},
    )
    prepared = prepare(spec, context, tokenizer)
    assert set(fake.asked) == {row["question"] for row in ROWS}
    assert prepared.retrieval is not None
    assert prepared.retrieval["with_gold"] == 10
    examples = Examples.load(prepared.train)
    prompts = [
        tokenizer.decode(examples.input_ids[examples.offsets[i] : examples.offsets[i + 1]])
        for i in range(len(examples))
    ]
    assert sum("noise" in prompt and "answer" in prompt.split("<|im_start|>assistant")[0] for prompt in prompts) >= 7


class OneForAll:
    """Finds the same passages for every question."""

    snapshot = None

    def __init__(self, *passages: Passage) -> None:
        self._passages = list(passages)

    def search(self, questions: Sequence[str], how: SearchSpec) -> list[list[Passage]]:
        return [self._passages[: how.top_k] for _ in questions]


def prompts_of(folder: Path, tokenizer: Any) -> dict[str, str]:
    examples = Examples.load(folder)
    bounds = zip(read_ids(folder), examples.offsets[:-1], examples.offsets[1:], strict=True)
    return {id: tokenizer.decode(examples.input_ids[begin:end]) for id, begin, end in bounds}


@pytest.mark.parametrize("own_file", [True, False])
def test_no_training_prompt_holds_a_document_that_is_held_out(
    context: JobContext, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, own_file: bool
) -> None:
    rows = [{**row, "source": f"{row['id']}.md"} for row in ROWS]
    passages = [passage(f"page {n} says answer{n}", f"r{n}.md") for n in range(10)]
    monkeypatch.setattr(tenants, "open_retriever", lambda cluster, collection: OneForAll(*passages))
    other = context.dir / "eval.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    spec = finetune_spec(
        context.dir / "t.jsonl",
        rows[2:] if own_file else rows,
        retrieval={"collection": "c", "passages": 4, "without_gold": 0.0},
        data={"eval": str(other)} if own_file else {},
    )
    prepared = prepare(spec, context, tokenizer)
    assert prepared.eval is not None
    trained, held = (prompts_of(folder, tokenizer) for folder in (prepared.train, prepared.eval))
    assert (len(trained), len(held)) == (8, 2)
    for id, prompt in trained.items():
        assert f"page {id[1:]} says" in prompt
        assert prompt.count(" says ") == 4
        assert not [other for other in held if f"page {other[1:]} says" in prompt]
    assert all(prompt.count(" says ") == 4 for prompt in held.values())
    assert prepared.retrieval is not None
    assert prepared.retrieval["excluded_passages"] > 0
    assert prepared.retrieval["eval_rows_sharing_document"] == 0


def test_where_all_share_a_document_training_keeps_its_passages_but_those_that_answer_what_is_held_out(
    context: JobContext, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = [passage(f"page {n} says answer{n}", "gold.md") for n in range(10)]
    monkeypatch.setattr(tenants, "open_retriever", lambda cluster, collection: OneForAll(*passages))
    retrieving = {"collection": "c", "passages": 4, "without_gold": 0.0}
    prepared = prepare(finetune_spec(context.dir / "t.jsonl", ROWS, retrieval=retrieving), context, tokenizer)
    assert prepared.eval is not None
    held = read_ids(prepared.eval)
    for prompt in prompts_of(prepared.train, tokenizer).values():
        assert prompt.count(" says ") == 4
        assert not [id for id in held if f"page {id[1:]} says" in prompt]
    assert prepared.retrieval is not None
    assert prepared.retrieval["eval_rows_sharing_document"] == len(held) == 2


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


def test_rows_that_are_evaluated_on_are_left_out_of_training_and_counted(
    context: JobContext, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = context.dir / "eval.jsonl"
    evaluated = [
        {"id": "other", "question": "what  IS 3?", "answers": ["three"]},
        {"prompt": "What is 4?", "completion": "four"},
        {"id": "5", "text": "The quick brown fox"},
    ]
    other.write_text("".join(json.dumps(row) + "\n" for row in evaluated))
    rows = [*ROWS, {"id": "x", "text": "The quick  brown fox"}, {"id": "5", "text": "The lazy dog"}]
    prepared = prepare(finetune_spec(context.dir / "t.jsonl", rows, data={"eval": str(other)}), context, tokenizer)
    assert (prepared.data["leaked"], prepared.data["train_rows"], prepared.data["eval_rows"]) == (3, 9, 3)
    assert not {"r3", "r4", "x"} & {*trained_ids(context), *read_ids(prepared.train)}
    assert key_bits(question_key("What is 3?")) not in read_keys(context.dir / TRAIN_ROWS)
    assert "5" in trained_ids(context)  # an id is no text
    assert "3 rows were left out of training: what they ask or say is held out too" in capsys.readouterr().out


def test_an_evaluation_file_that_asks_all_there_is_is_refused(context: JobContext, tokenizer: Any) -> None:
    other = finetune_spec(context.dir / "eval.jsonl", ROWS).data.train
    with pytest.raises(DataError, match=r"every row that can be used is asked by data\.eval too"):
        prepare(finetune_spec(context.dir / "t.jsonl", ROWS, data={"eval": other}), context, tokenizer)


def test_the_same_text_under_two_ids_is_on_one_side(context: JobContext, tokenizer: Any) -> None:
    rows = [{"id": f"{n}{copy}", "text": f"The fox number {n}"} for n in range(10) for copy in "ab"]
    prepared = prepare(finetune_spec(context.dir / "t.jsonl", rows), context, tokenizer)
    assert prepared.eval is not None
    held = {id[0] for id in read_ids(prepared.eval)}
    assert not held & {id[0] for id in read_ids(prepared.train)}
    assert prepared.data["leaked"] + prepared.examples == 16


LLAMA3_LIKE = (
    "{% for m in messages %}<h>{{ m.role }}</h>\n\n{{ m.content | trim }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}"
)
MISTRAL_LIKE = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (None, "<|im_start|>assistant⏎⟦answer{n}<|im_end|>⟧"),
        (LLAMA3_LIKE, "</h>⏎⏎⟦answer{n}<eot>⟧"),
        (MISTRAL_LIKE, "[/INST]⟦ answer{n}<|im_end|>⟧"),
    ],
    ids=["chatml", "llama-3", "mistral"],
)
def test_the_log_shows_what_is_learnt_of_three_rows(
    context: JobContext, tokenizer: Any, capsys: pytest.CaptureFixture[str], template: str | None, shown: str
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.add_special_tokens({"additional_special_tokens": ["<h>", "</h>", "<eot>"]})
    spec = finetune_spec(context.dir / "t.jsonl", ROWS)
    prepared = prepare(spec, context, tokenizer)
    log = capsys.readouterr().out
    samples = [id for id in read_ids(prepared.train) if shown.format(n=id[1:]) in log]
    assert len(samples) == 3
    assert log.count("⟦") == 4  # in the heading, and in nothing else of the samples
    prepare(spec, context, tokenizer)  # as another attempt
    again = capsys.readouterr().out
    assert all(shown.format(n=id[1:]) in again for id in samples)


def test_another_attempt_uses_the_rows_of_the_first_one_whatever_became_of_their_file(
    context: JobContext, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = finetune_spec(context.dir / "t.jsonl", ROWS)
    first = prepare(spec, context, tokenizer)
    was = Examples.load(first.train).input_ids.tolist()
    finetune_spec(context.dir / "t.jsonl", [*ROWS[5:], {"id": "new", "question": "New?", "answers": ["yes"]}])
    capsys.readouterr()
    assert prepare(spec, context, tokenizer) == first
    assert Examples.load(first.train).input_ids.tolist() == was
    assert "the rows are those that an earlier attempt prepared" in capsys.readouterr().out
    (context.dir / "t.jsonl").unlink()
    assert prepare(spec, context, tokenizer) == first


def test_an_attempt_that_died_while_it_prepared_leaves_nothing_to_go_on_from(
    context: JobContext, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = finetune_spec(context.dir / "t.jsonl", ROWS)

    def die(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(preparing, "preflight", die)
        with pytest.raises(KeyboardInterrupt):
            prepare(spec, context, tokenizer)
    finetune_spec(context.dir / "t.jsonl", ROWS[:6])
    assert prepare(spec, context, tokenizer).data["train_rows"] == 5


def test_other_settings_of_the_data_are_prepared_anew(context: JobContext, tokenizer: Any) -> None:
    prepare(finetune_spec(context.dir / "t.jsonl", ROWS), context, tokenizer)
    data = {"eval_fraction": 0.5}
    assert prepare(finetune_spec(context.dir / "t.jsonl", ROWS, data=data), context, tokenizer).examples == 5


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
