from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.data.rows import QaRow, parse_training
from tandem.data.splits import question_key
from tandem.data.train_rows import TRAIN_ROWS, TrainRowsFile, seen
from tandem.errors import DataError
from tandem.evaluation.asking.arms import Passage
from tandem.evaluation.asking.leaks import find_near_duplicates
from tandem.evaluation.job import run
from tandem.specs.search import SearchSpec

COUNT = 12


def question(number: object) -> str:
    return f"The value of {number} in the ledger of Paris?"


def trained(world: Any, *rows: dict[str, Any], name: str = "tuned") -> str:
    """An adapter with a record of the rows that it was trained on."""
    uri: str = world.adapter(name, data={"train_sha256": "abc"})
    with TrainRowsFile(world.storage / "artifacts" / name / "job-0" / TRAIN_ROWS) as file:
        for number, row in enumerate(rows):
            file.add(seen(parse_training({"id": f"t{number}", "answers": [f"answer{number}"], **row})))
    return uri


def asked(world: Any, *more: dict[str, Any]) -> str:
    path = world.root / "eval.jsonl"
    rows = [
        {"id": f"q{n}", "question": question(n), "answers": [f"answer{n}"], "source": f"doc{n}.txt"}
        for n in range(1, COUNT + 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    return str(path)


def compared(world: Any, *adapters: str, **changes: Any) -> dict[str, Any]:
    if "eval" not in changes:
        changes["eval"] = asked(world)
    spec = world.spec(**{"arms": ["base", "raft"], "raft_adapter": adapters} | changes)
    result = run(spec, world.context, world.tools)
    report: dict[str, Any] = json.loads((Path(result["report"]) / "report.json").read_text())
    return report


def found(report: dict[str, Any]) -> dict[str, Any]:
    near: dict[str, Any] = report["dataset"]["near_duplicates"]
    return near


@pytest.mark.parametrize(
    "row",
    [
        {"question": "the value of 3  in the ledger of PARIS?"},
        {"question": question(3), "id": "of another name"},
        {"prompt": question(3), "completion": "answer3"},
    ],
    ids=["in other letters", "under another id", "as a prompt"],
)
def test_a_question_that_was_trained_on_is_asked_of_no_arm(world: Any, row: dict[str, Any]) -> None:
    report = compared(world, trained(world, {"question": question("pi")}, row))
    assert (report["dataset"]["leaked"], report["dataset"]["n"]) == (1, COUNT - 1)
    assert found(report)["training"] == 0
    assert "None:3" not in world.engines[0].asked


NEAR = [
    {"question": "The value of 3 - in the ledger of Paris"},
    {"question": "Please: what was the value of 3 in Paris' ledger?"},
    {"prompt": f"Answer in one word.\nQuestion: {question(3)}\nAnswer:", "completion": "answer3"},
    {"text": f"All of it: {question(3)} It is answer3."},
]


@pytest.mark.parametrize("row", NEAR, ids=["marks", "words", "prompt", "text"])
def test_a_question_that_nearly_repeats_a_training_question_is_asked_and_said(world: Any, row: dict[str, Any]) -> None:
    report = compared(world, trained(world, {"question": question("pi")}, row))
    assert report["dataset"]["n"] == COUNT
    assert found(report) == {
        "training": 1,
        "index": 0,
        "evaluation": 0,
        "examples": [["q3", "artifact:tuned: row t1"]],
        "excluded": 0,
    }
    (note,) = report["notes"]
    assert note.startswith("An adapter was trained on nearly the same as 1 of the 12 questions")


@pytest.mark.parametrize("row", NEAR, ids=["marks", "words", "prompt", "text"])
def test_or_it_is_left_out(world: Any, row: dict[str, Any]) -> None:
    report = compared(world, trained(world, row), near_duplicates="exclude")
    assert report["dataset"]["n"] == COUNT - 1
    assert (found(report)["training"], found(report)["excluded"]) == (1, 1)
    assert found(report)["examples"] == [["q3", "artifact:tuned: row t0"]]
    assert "None:3" not in world.engines[0].asked
    assert report["notes"] == ["Left out, as they nearly repeat what an adapter was trained on: 1 questions."]


def test_what_any_of_the_adapters_was_trained_on_counts(world: Any) -> None:
    one = trained(world, {"question": question(2) + "!"}, name="one")
    other = trained(world, {"question": question(2) + "!"}, {"question": question(5) + "!"}, name="other")
    report = compared(world, one, other)
    assert found(report)["examples"] == [["q2", "artifact:one: row t0"], ["q5", "artifact:other: row t1"]]


def test_of_a_template_nothing_is_found_where_another_thing_is_asked(world: Any) -> None:
    rows = [{"question": question(n)} for n in range(COUNT + 1, 200)]
    report = compared(world, trained(world, *rows))
    assert found(report) == {"training": 0, "index": 0, "evaluation": 0, "examples": [], "excluded": 0}
    assert report["dataset"]["leaked"] == 0
    assert report["notes"] == []


def test_questions_all_of_which_are_repeats_are_refused_when_repeats_are_left_out(world: Any) -> None:
    adapter = trained(world, *({"question": question(n) + "!"} for n in range(1, COUNT + 1)))
    with pytest.raises(DataError, match="all 12 questions nearly repeat one that was trained on"):
        compared(world, adapter, near_duplicates="exclude")


def test_an_adapter_without_a_record_leaves_it_open(world: Any) -> None:
    report = compared(world, world.adapter())
    assert found(report)["training"] is None
    assert any("a leak can't be ruled out" in note for note in report["notes"])


def test_an_older_artifact_lists_questions_in_its_manifest(world: Any) -> None:
    adapter = world.adapter(data={"train_questions": [question_key(question(3))], "train_ids": ["q4"]})
    report = compared(world, adapter)
    assert report["dataset"]["leaked"] == 1
    assert found(report)["training"] is None  # what is nearly one of them can't be told from those


def test_without_an_adapter_nothing_was_trained_on(world: Any) -> None:
    report = compared(world, arms=["base"], raft_adapter=None)
    assert found(report)["training"] == 0
    assert report["notes"] == []


def test_questions_of_the_file_that_repeat_each_other_are_said(world: Any) -> None:
    again = {"id": "again", "question": "What's the value of 3 in Paris' ledger?", "answers": ["answer3"]}
    report = compared(world, arms=["base"], raft_adapter=None, eval=asked(world, again))
    assert found(report)["evaluation"] == 1
    assert found(report)["examples"] == [["again", "question q3"]]
    assert report["notes"] == [
        "Among the 13 questions, 1 nearly repeat an earlier one and count as others do: the intervals are a little too "
        "narrow."
    ]


def test_a_question_that_a_passage_holds_is_said(world: Any) -> None:
    plain = world.searcher.search

    def search(questions: Sequence[str], how: SearchSpec, **filter: Any) -> list[list[Any]]:
        hits = plain(questions, how, **filter)
        text = "FAQ. The value of 3 in the ledger of Paris: it is 7. The value of 4 in the ledger of Rome: it is 8."
        return [[replace(hit, text=text) for hit in some] for some in hits]

    world.searcher.search = search
    report = compared(world, arms=["base", "rag"], raft_adapter=None)
    assert found(report)["index"] == 1  # not 4, which stands there of another ledger
    assert found(report)["examples"] == [["q3", "passage p3 of doc3.txt"]]
    assert any("hold 1 of the 12 questions nearly word for word" in note for note in report["notes"])


def test_a_statement_with_the_words_of_a_short_question_is_not_that_question() -> None:
    row = QaRow("q", "Is Django stable?", ("yes",))
    passage = Passage("p", "faq.txt", "", 1.0, "Is Django stable? Yes.")
    assert find_near_duplicates([row], [], {}, {"q": [passage]}, excluded=0).index == 0


def test_answers_that_were_trained_on_are_a_slice(world: Any) -> None:
    adapter = trained(
        world, {"question": question("pi"), "answers": ["Answer3"]}, {"prompt": "?", "completion": "answer5"}
    )
    slices = compared(world, adapter)["slices"]["answer seen in training"]
    assert {value: by_arm["raft"]["n"] for value, by_arm in slices.items()} == {"yes": 2, "no": COUNT - 2}


def test_where_a_row_does_not_say_its_answers_there_is_no_such_slice(world: Any) -> None:
    adapter = trained(world, {"question": question("pi"), "answers": ["answer3"]}, {"text": "The fox"})
    assert "answer seen in training" not in compared(world, adapter)["slices"]
