from __future__ import annotations

from pathlib import Path

import pytest

from tandem.artifacts.manifest import write_manifest
from tandem.data.rows import QaRow, TrainRow
from tandem.data.splits import question_key
from tandem.data.train_rows import SELECTION_ROWS, TRAIN_ROWS, TrainRowsFile, seen
from tandem.errors import ModelError
from tandem.evaluation.asking.adapters import Adapter, learnt_answers, read_adapter, selection_notes, trained_on
from tandem.specs.compare import PriceSpec

ROWS = [QaRow("q1", "Who wrote it?", ("Ann", "A. Smith")), QaRow("q2", "Where?", ("here",))]


def adapter(folder: Path, *rows: TrainRow) -> Adapter:
    folder.mkdir()
    with TrainRowsFile(folder / TRAIN_ROWS) as file:
        for row in rows:
            file.add(seen(row))
    # The file says it: what an older kind of artifact kept in its manifest isn't looked at.
    return Adapter(folder.name, folder, "sha", meta={"data": {"train_ids": ["q1", "q2"]}})


def test_the_rows_of_the_artifact_say_what_was_trained_on(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", TrainRow("q1", question="where ?", answers=("x",)), TrainRow("t", text="WHERE?"))
    assert trained_on(one, ROWS) == {"q2"}
    assert trained_on(adapter(tmp_path / "none"), ROWS) == frozenset()
    assert trained_on(Adapter("elsewhere", tmp_path, "sha"), ROWS) is None


def test_answers_are_learnt_of_any_adapter_and_unknown_where_one_does_not_say(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", TrainRow("t", question="Whose?", answers=("Bob's", "a.  smith")))
    other = adapter(tmp_path / "other", TrainRow("t", messages=[{"role": "assistant", "content": "Here"}]))
    assert learnt_answers([one], ROWS) == {question_key("A. Smith")}
    assert learnt_answers([one, other], ROWS) == {question_key("A. Smith"), question_key("here")}
    assert learnt_answers([one, Adapter("elsewhere", tmp_path, "sha")], ROWS) is None
    assert learnt_answers([], ROWS) is None


def test_a_checkpoint_that_was_chosen_by_what_is_asked_is_said(tmp_path: Path) -> None:
    one, other = adapter(tmp_path / "one"), adapter(tmp_path / "other")
    with TrainRowsFile(one.path / SELECTION_ROWS) as file:
        for asked in ("WHERE?", "Whence?"):
            file.add(seen(TrainRow("e", question=asked, answers=("x",))))
    assert selection_notes([one, other], ROWS) == [
        "one: its checkpoint was chosen by 1 of the 2 questions, which favours its arms."
    ]
    assert selection_notes([one], ROWS[:1]) == []


def test_training_costs_what_all_attempts_held(tmp_path: Path) -> None:
    prices = PriceSpec(cpu_hour=0.1, gpu_hour=2.0)
    last = {"seconds": 1800.0, "cpus": 4.0, "gpus": 1.0}
    cost = {
        "all": Adapter("a", tmp_path, "sha", meta={"metrics": {**last, "cpu_s": 36000.0, "gpu_s": 7200.0}}),
        "last": Adapter("b", tmp_path, "sha", meta={"metrics": last}),
        "none": Adapter("c", tmp_path, "sha"),
    }
    assert {name: adapter.train_cost(prices) for name, adapter in cost.items()} == {
        "all": pytest.approx(1.0 + 4.0), "last": pytest.approx(0.2 + 1.0), "none": None,
    }  # fmt: skip


def test_an_adapter_that_tells_classes_answers_no_questions(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    write_manifest(tmp_path, name="c", id="c-1", type="adapter", meta={"task": "classification"})
    with pytest.raises(ModelError, match="an adapter for classification, which answers no questions"):
        read_adapter(str(tmp_path), storage=tmp_path)
