from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tandem.training import metrics


def write(path: Path, *records: dict[str, Any]) -> None:
    for record in records:
        metrics.append(path, record)


def test_records_come_back_and_fall_into_steps_and_starts(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"started_at_step": 0}, {"step": 1, "loss": 2.0}, {"started_at_step": 1}, {"step": 2, "loss": 1.0})
    records = metrics.read(path)
    assert [record["step"] for record in metrics.steps(records)] == [1, 2]
    assert [record["started_at_step"] for record in metrics.starts(records)] == [0, 1]


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert metrics.read(tmp_path / "none") == []


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"step": 1, "loss": 2.0})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert [record["step"] for record in metrics.read(path)] == [1]


def test_rewinding_drops_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"started_at_step": 0}, *({"step": step, "loss": 1.0} for step in range(1, 6)))
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # the worker was killed here
    metrics.rewind(path, 3)
    assert [record.get("step") for record in metrics.read(path)] == [None, 1, 2, 3]
    write(path, {"step": 4, "loss": 1.0})
    assert len(metrics.steps(metrics.read(path))) == 4


def test_the_follower_tells_of_new_records_and_of_the_last_ones_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    told: list[int] = []
    first = threading.Event()

    def tell(records: list[metrics.Record]) -> None:
        told.append(len(records))
        first.set()

    with metrics.Follower(path, tell, poll_s=0.01):
        write(path, {"step": 1, "loss": 1.0})
        assert first.wait(10)
        write(path, {"step": 2, "loss": 1.0})
    assert told[-1] == 2
    assert told == sorted(set(told))
