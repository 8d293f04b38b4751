from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tandem.training import group
from tandem.training.group import Notice, RayGroup, TorchrunGroup, steps_within

ASIDE = Path("/nowhere/step-aside")


@pytest.fixture
def ray_train(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Ray Train as worker 1 of 2 sees it; what it is asked and told."""
    import ray.train
    import ray.train.collective

    seen = SimpleNamespace(asked=0, told=None, aside=False, reports=[])
    storage = SimpleNamespace(
        build_checkpoint_path_from_name=lambda name: f"/storage/train/{name}", storage_filesystem=None
    )
    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2, get_storage=lambda: storage)

    def ask() -> Any:
        seen.asked += 1
        return seen.told

    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train, "get_preemption_info", ask)
    monkeypatch.setattr(ray.train, "report", lambda record, **options: seen.reports.append((record, options)))
    monkeypatch.setattr(
        ray.train.collective, "broadcast_from_rank_zero", lambda _: (3, seen.aside)
    )  # the first worker's answer
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    return seen


def test_all_workers_ask_at_the_steps_that_the_first_one_says(ray_train: SimpleNamespace) -> None:
    ray = RayGroup(ASIDE)
    assert (ray.rank, ray.size) == (1, 2)
    assert [ray.notice() for _ in range(5)] == [Notice.NONE] * 5
    assert ray_train.asked == 2  # at step 1 and three later
    ray_train.told = object()
    assert [ray.notice() for _ in range(2)] == [Notice.NONE, Notice.MACHINE_LEAVES]


def test_where_nobody_watches_nobody_is_asked(ray_train: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    assert RayGroup(ASIDE).notice() is Notice.NONE
    assert ray_train.asked == 0


@pytest.mark.parametrize("watched", ["0", "1"])
def test_a_job_that_must_step_aside_hears_what_the_first_worker_sees(
    ray_train: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, watched: str
) -> None:
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", watched)
    ray = RayGroup(ASIDE)
    assert ray.notice() is Notice.NONE
    ray_train.aside = True
    # It goes before a machine that leaves: the checkpoint is the same, and then the job ends.
    ray_train.told = object()
    assert [ray.notice() for _ in range(3)] == [Notice.NONE, Notice.NONE, Notice.STEP_ASIDE]


def test_the_first_worker_looks_for_the_file(
    ray_train: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray.train.collective

    monkeypatch.setattr(ray.train.collective, "broadcast_from_rank_zero", lambda mine: mine)
    alone = RayGroup(tmp_path / "step-aside")
    assert alone.notice() is Notice.NONE
    (tmp_path / "step-aside").touch()
    assert RayGroup(tmp_path / "step-aside").notice() is Notice.STEP_ASIDE


def test_ray_train_is_given_the_storing_to_do_and_the_place_as_it_names_it(ray_train: SimpleNamespace) -> None:
    stored = []
    ray = RayGroup(ASIDE)
    ray.report({"loss": 1.0}, Path("/storage/train/step-000004"), lambda: stored.append("part"))
    ((record, options),) = ray_train.reports
    assert record == {"loss": 1.0}
    assert (options["checkpoint_dir_name"], options["checkpoint_upload_mode"].name) == ("step-000004", "ASYNC")
    assert not stored
    assert options["checkpoint_upload_fn"](options["checkpoint"], "step-000004").path == "/storage/train/step-000004"
    assert stored == ["part"]
    ray.wait()


def test_without_ray_a_part_is_stored_in_a_thread_and_its_failure_is_raised_by_who_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch.distributed

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    alone = TorchrunGroup()
    alone.wait()
    go, threads = threading.Event(), []

    def store() -> None:
        go.wait(10)
        threads.append(threading.current_thread())

    alone.report({}, Path("step-000001"), store)
    go.set()
    alone.wait()
    assert threads != [threading.current_thread()]
    assert alone.notice() is Notice.NONE

    def fail() -> None:
        raise OSError("no space left on device")

    alone.report({}, Path("step-000002"), fail)
    with pytest.raises(OSError, match="no space left"):
        alone.wait()


@pytest.mark.parametrize(("step_s", "steps"), [(0.1, 50), (2.0, 2), (60.0, 1), (0.0, 5_000_000)])
def test_steps_between_questions(step_s: float, steps: int) -> None:
    assert steps_within(group.ASK_EVERY_S, step_s) == pytest.approx(steps, abs=1)
