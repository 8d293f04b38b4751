from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

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


def test_a_tail_reads_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    tail = metrics.Tail(path)
    assert not tail.read()
    write(path, {"started_at_step": 0}, {"step": 1, "loss": 2.0})
    assert tail.read()
    assert not tail.read()
    with path.open("r+") as file:
        file.write("#")  # whoever read it again would find no JSON
    write(path, {"step": 2, "loss": 1.0})
    assert tail.read()
    assert [record.get("step") for record in tail.records] == [None, 1, 2]


def test_a_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "lo')
    tail = metrics.Tail(path)
    assert not tail.read()
    with path.open("a") as file:
        file.write('ss": 2.0}\n{"st')
    assert tail.read()
    assert tail.records == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize("more", [0, 1, 9])
def test_a_tail_begins_again_with_a_file_that_was_rewound(tmp_path: Path, more: int) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"started_at_step": 0}, *({"step": step, "loss": 1.0} for step in range(1, 6)))
    tail = metrics.Tail(path)
    tail.read()
    metrics.rewind(path, 3)
    write(path, {"started_at_step": 3}, *({"step": step, "loss": 2.0} for step in range(4, 4 + more)))
    assert tail.read()
    assert tail.records == metrics.read(path)
    assert [record["step"] for record in metrics.steps(tail.records)] == list(range(1, 4 + more))


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


def test_the_follower_calls_after_each_look_whether_there_is_anything_new_or_not(tmp_path: Path) -> None:
    looks: list[int] = []
    several = threading.Event()

    def keep() -> None:
        looks.append(1)
        if len(looks) == 3:
            several.set()

    with metrics.Follower(tmp_path / "m.jsonl", lambda _: None, keep=keep, poll_s=0.01):
        assert several.wait(10)
