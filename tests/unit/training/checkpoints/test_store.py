from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.training.checkpoints.store import (
    Skipped,
    checkpoint_folder,
    checkpoint_step,
    checkpoints,
    clear_local,
    discard_after,
    fault,
    incomplete,
    local_folder,
    newest_sound,
    store,
    superfluous,
    thin_out,
    workers_of,
)


def make(root: Path, step: int, *, workers: int = 2, stored: int | None = None) -> Path:
    """A checkpoint, of which the first `stored` workers' parts have arrived."""
    target = checkpoint_folder(root, step)
    for rank in range(workers if stored is None else stored):
        local = root / f"local-{rank}"
        (local / "deepspeed").mkdir(parents=True)
        (local / "deepspeed" / f"rank_{rank}_states.pt").write_bytes(bytes(range(256)) * 4)
        if rank == 0:
            (local / "deepspeed" / "model_states.pt").write_bytes(b"weights")
        store(local, target, rank=rank, workers=workers)
        assert not local.exists()
    return target


def test_what_was_stored_is_sound(tmp_path: Path) -> None:
    folder = make(tmp_path, 25, workers=3)
    assert fault(folder) is None
    assert (folder.name, checkpoint_step(folder), workers_of(folder)) == ("step-000025", 25, 3)
    assert newest_sound(tmp_path) == (folder, [])


def test_what_killed_workers_left_on_the_local_disk_is_cleared_away_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    for rank in (0, 1):
        (local_folder(tmp_path / "run", rank) / "weights.pt").write_bytes(b"weights")
    others = local_folder(tmp_path / "other-run", 0)
    clear_local(tmp_path / "run")
    assert list(disk.iterdir()) == [others]


def test_a_run_without_checkpoints_begins_at_the_beginning(tmp_path: Path) -> None:
    assert newest_sound(tmp_path / "not-there") == (None, [])


def truncate(folder: Path) -> None:
    path = folder / "deepspeed" / "rank_1_states.pt"
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(folder: Path) -> None:
    path = folder / "deepspeed" / "rank_1_states.pt"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (truncate, "deepspeed/rank_1_states.pt has 1023 bytes instead of 1024"),
        (flip_a_bit, "deepspeed/rank_1_states.pt isn't what was written (SHA-256)"),
        (lambda folder: (folder / "deepspeed" / "model_states.pt").unlink(), "deepspeed/model_states.pt is missing"),
        (lambda folder: (folder / "rank-00001.json").unlink(), "half written: worker 1 of 2 has no manifest"),
        (
            lambda folder: (folder / "rank-00000.json").unlink(),
            "half written: the first worker's part has no manifest",
        ),
        (lambda folder: (folder / "rank-00000.json").write_text('{"rank": 0, "wor'), "rank-00000.json can't be read"),
        (lambda folder: (folder / "rank-00001.json").write_text("[]"), "rank-00001.json can't be read"),
    ],
)
def test_a_broken_checkpoint_is_skipped_for_the_one_before(
    tmp_path: Path, harm: Callable[[Path], object], why: str
) -> None:
    before, broken = make(tmp_path, 2), make(tmp_path, 4)
    harm(broken)
    assert newest_sound(tmp_path) == (before, [Skipped("step-000004", why)])


def test_when_all_are_broken_each_is_named(tmp_path: Path) -> None:
    for step in (2, 4):
        truncate(make(tmp_path, step))
    found, skipped = newest_sound(tmp_path)
    assert found is None
    assert [each.name for each in skipped] == ["step-000004", "step-000002"]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (1_000_000, 999_999, 5):
        make(tmp_path, step)
    (tmp_path / "step-notes").mkdir()
    assert [checkpoint_step(folder) for folder in checkpoints(tmp_path)] == [5, 999_999, 1_000_000]


def test_what_comes_after_the_place_to_go_on_from_is_removed(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        make(tmp_path, step)
    discard_after(tmp_path, 4)
    assert [checkpoint_step(folder) for folder in checkpoints(tmp_path)] == [2, 4]
    discard_after(tmp_path, 0)
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize(
    ("keep", "best", "removed"),
    [(2, None, [2, 4, 6]), (2, 4, [2, 6]), (2, 10, [2, 4, 6]), (1, 2, [4, 6, 8]), (9, None, [])],
)
def test_the_last_ones_and_the_best_stay(keep: int, best: int | None, removed: list[int]) -> None:
    assert superfluous([10, 2, 4, 6, 8], keep=keep, best=best) == removed


def test_a_checkpoint_on_its_way_is_left_alone_and_doesnt_count(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        make(tmp_path, step)
    on_its_way = make(tmp_path, 8, stored=1)
    thin_out(tmp_path, keep=2, best=None, before=8)
    assert [checkpoint_step(folder) for folder in checkpoints(tmp_path)] == [4, 6, 8]
    assert incomplete(on_its_way) is not None


def test_what_was_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    make(tmp_path, 2)
    make(tmp_path, 4, stored=1)
    make(tmp_path, 6)
    thin_out(tmp_path, keep=2, best=None, before=8)
    assert [checkpoint_step(folder) for folder in checkpoints(tmp_path)] == [2, 6]
