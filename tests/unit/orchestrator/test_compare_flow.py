from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.data.rows import QaRow, read_qa
from tandem.errors import DataError, InputError
from tandem.orchestrator.compare_flow import CompareOptions, ComparePlan, plan_compare, row_line, slug
from tandem.specs import CompareSpec, FinetuneSpec, IndexSpec

ROWS = [
    QaRow(str(n), f"What is setting {n}?", (f"value {n}",), source=f"{n}.md", extra={"slice": "a"}) for n in range(20)
]


FILES = [("a.md", 10, 1), ("b.md", 20, 2)]


def plan(
    tmp_path: Path,
    rows: list[QaRow] = ROWS,
    workers: int = 2,
    files: list[tuple[str, int, int]] = FILES,
    **options: Any,
) -> ComparePlan:
    docs = tmp_path / "My Docs"
    return plan_compare(docs, files, rows, CompareOptions(**options), storage=tmp_path, workers=workers)


def index(made: ComparePlan) -> IndexSpec:
    spec = made.pipeline.steps["docs"].spec
    assert isinstance(spec, IndexSpec)
    return spec


def finetune(made: ComparePlan) -> FinetuneSpec:
    spec = made.pipeline.steps["raft"].spec
    assert isinstance(spec, FinetuneSpec)
    return spec


def compare(made: ComparePlan) -> CompareSpec:
    spec = made.pipeline.steps["compare"].spec
    assert isinstance(spec, CompareSpec)
    return spec


def test_every_step_meets_the_others_in_names_and_files(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert made.name == made.pipeline.name == "my-docs"
    needs = {name: step.needs for name, step in made.pipeline.steps.items()}
    assert needs == {"docs": (), "tuned": (), "raft": ("docs",), "compare": ("docs", "raft", "tuned")}
    assert index(made).collection_name == finetune(made).retrieval.collection == made.name  # type: ignore[union-attr]
    assert finetune(made).data.train == str(made.train_path)
    assert finetune(made).workers == 2
    assert made.train_path.parent == made.eval_path.parent
    assert made.train_path.parent.parent == tmp_path / "compare" / "my-docs"
    asked = compare(made)
    # Every question names its gold document.
    assert asked.arms == ("base", "rag", "tuned", "tuned_rag", "raft", "oracle")
    assert (asked.adapter, asked.raft_adapter) == ("${tuned.artifact}", "${raft.artifact}")
    assert (asked.eval, asked.collection, asked.model) == (str(made.eval_path), made.name, finetune(made).model)
    (app,) = made.serve_config("artifact:my-docs-raft@x")["applications"]
    assert (app["name"], app["route_prefix"]) == ("my-docs", "/my-docs")
    assert app["args"]["default_model"] == "my-docs-raft"
    (beside,) = made.serve_config("artifact:my-docs-raft@x", answers=False)["applications"]
    assert (beside["args"]["adapters"], beside["args"]["default_model"]) == (app["args"]["adapters"], None)


def test_no_question_is_trained_on_and_asked_and_the_split_is_the_same_in_any_order(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert {row.id for row in made.train} | {row.id for row in made.eval} == {row.id for row in ROWS}
    assert not {row.question for row in made.train} & {row.question for row in made.eval}
    assert {row.id for row in plan(tmp_path, ROWS[::-1]).eval} == {row.id for row in made.eval}


def test_without_training_every_question_is_asked(tmp_path: Path) -> None:
    made = plan(tmp_path, train=False)
    assert list(made.pipeline.steps) == ["docs", "compare"]
    assert made.eval == tuple(ROWS)
    assert compare(made).arms == ("base", "rag", "oracle")
    unknown = [replace(row, source=None) for row in ROWS[:1]] + ROWS[1:]
    assert compare(plan(tmp_path, unknown, train=False)).arms == ("base", "rag")
    (app,) = made.serve_config(None)["applications"]
    assert app["args"]["adapters"] == []


def test_a_given_adapter_is_compared_on_questions_that_this_split_would_not_have_trained_on(tmp_path: Path) -> None:
    made = plan(tmp_path, train=False, adapter="/an/adapter")
    assert list(made.pipeline.steps) == ["docs", "compare"]
    assert made.eval == plan(tmp_path).eval
    assert compare(made).raft_adapter == "/an/adapter"


def test_too_few_questions_and_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 questions are too few"):
        plan(tmp_path, ROWS[:3])
    with pytest.raises(InputError, match="'My Name' can't be a name"):
        plan(tmp_path, name="My Name")
    assert slug("Ünïcode & more__stuff!") == "n-code-more-stuff"
    assert slug("///") == "docs"
    assert len(slug("x" * 99)) <= 30


def specs(made: ComparePlan) -> list[str]:
    return [step.spec.digest() for step in made.pipeline.steps.values()]


def test_other_contents_make_other_jobs(tmp_path: Path) -> None:
    made = specs(plan(tmp_path))
    assert specs(plan(tmp_path, files=FILES[::-1])) == made
    changed_documents = specs(plan(tmp_path, files=[("a.md", 10, 1), ("b.md", 21, 2)]))
    assert not set(changed_documents) & set(made)
    changed_questions = specs(plan(tmp_path, ROWS[1:]))
    assert changed_questions[0] == made[0]  # the index needn't be made again
    assert not set(changed_questions[1:]) & set(made)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row_line(row) for row in ROWS))
    assert json.loads(path.read_text().splitlines()[0])["source"] == "0.md"
    assert read_qa(path, quarantine=tmp_path / "q.jsonl", max_quarantined=0.0) == ROWS
