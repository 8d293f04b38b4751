"""What the loop does when it is told to go; what it computes is shown where it is interrupted for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tandem.errors import PreemptedError
from tandem.specs.finetune import FinetuneSpec
from tandem.training import metrics, worker
from tandem.training.checkpoints.saving import Progress, Resumed
from tandem.training.group import Notice
from tandem.training.loop_config import LoopConfig
from tandem.training.worker import train

EVERY, STEPS = 4, 9
Begin = Callable[[dict[int, Notice]], list[str]]


class Group:
    """One worker that is given its notices by step."""

    rank, size = 0, 1

    def __init__(self, notices: dict[int, Notice], done: list[str]) -> None:
        self._notices = notices
        self._step = count(1)
        self._done = done

    def notice(self) -> Notice:
        return self._notices.get(next(self._step), Notice.NONE)

    def wait(self) -> None:
        self._done.append("stored")


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Begin:
    """Runs the loop over an engine that does nothing; what was saved and stored, in order."""
    done: list[str] = []

    class Checkpoints:
        stall_s = 0.0

        def __init__(self, *_: Any) -> None: ...

        def resume(self) -> Resumed:
            return Resumed(Progress(), None, ())

        def save(self, progress: Progress, record: Any) -> None:
            done.append(f"save {progress.step}")

        def finish(self, progress: Progress) -> int:
            return progress.step

    data = {"kind": "finetune", "name": "t", "model": "/m", "data": {"train": "/rows.jsonl"}}
    spec = FinetuneSpec.model_validate({**data, "checkpoint": {"every_steps": EVERY}})
    place = SimpleNamespace(
        first=True, engine=None, guard=SimpleNamespace(resume=lambda *_: None),
        task=SimpleNamespace(load_data=lambda _: None),
    )  # fmt: skip
    monkeypatch.setattr(worker, "set_up", lambda _: place)
    monkeypatch.setattr(worker, "Checkpoints", Checkpoints)
    monkeypatch.setattr(worker, "_start_record", lambda *_: {"started_at_step": 0})
    monkeypatch.setattr(worker, "planned", lambda *_, **__: iter([[0]] * STEPS))
    monkeypatch.setattr(worker, "train_step", lambda *arguments: {"step": arguments[-1] + 1, "loss": 1.0})
    monkeypatch.setattr(worker, "save_weights", lambda *_: done.append("weights"))
    config = LoopConfig(
        spec=spec, model="/m", train="/t", eval=None, steps=STEPS, pad_id=0, packing=False,
        metrics=str(tmp_path / "metrics.jsonl"), checkpoints=str(tmp_path / "c"), output=str(tmp_path / "o"),
        started_at=0.0,
    )  # fmt: skip

    def run(notices: dict[int, Notice]) -> list[str]:
        done.clear()
        (tmp_path / "workers-lost").touch()
        train(config, Group(notices, done))  # type: ignore[arg-type]
        return done

    return run


def steps(tmp_path: Path) -> Iterator[int]:
    return (record["step"] for record in metrics.steps(metrics.read(tmp_path / "metrics.jsonl")))


def test_undisturbed_it_saves_when_it_is_due_and_says_that_its_workers_are_there(begin: Begin, tmp_path: Path) -> None:
    assert begin({}) == ["save 4", "save 8", "save 9", "weights"]
    assert list(steps(tmp_path)) == list(range(1, STEPS + 1))
    assert not (tmp_path / "workers-lost").exists()


def test_told_that_a_machine_leaves_it_saves_once_waits_and_goes_on(begin: Begin) -> None:
    told = dict.fromkeys(range(2, 5), Notice.MACHINE_LEAVES)
    assert begin(told) == ["save 2", "stored", "save 4", "save 8", "save 9", "weights"]


@pytest.mark.parametrize("step", [2, 4])
def test_told_to_step_aside_it_saves_waits_and_ends(begin: Begin, tmp_path: Path, step: int) -> None:
    with pytest.raises(PreemptedError, match=f"after step {step} of 9, which is stored"):
        begin({step: Notice.STEP_ASIDE})
    assert list(steps(tmp_path)) == list(range(1, step + 1))


def test_it_saves_again_where_a_machine_was_to_leave_before(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(Group, "wait", lambda _: done.append("stored"))
    with pytest.raises(PreemptedError):
        begin({1: Notice.MACHINE_LEAVES, 3: Notice.STEP_ASIDE})
    assert done == ["stored", "stored"]


def test_after_the_last_step_there_is_nothing_to_step_aside_for(begin: Begin) -> None:
    assert begin({STEPS: Notice.STEP_ASIDE})[-1] == "weights"
