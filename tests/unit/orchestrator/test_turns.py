"""When the loop turns, and what a quick turn looks at."""

from __future__ import annotations

import time

import pytest
from stand_ins.world import World

from tandem.orchestrator import pace


def test_a_submission_wakes_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "TURN_EVERY_S", 60.0)
    world.restart()
    began = time.monotonic()
    world.orchestrator.pace.wake()
    world.orchestrator.pace.rest()
    assert time.monotonic() - began < 30


def test_while_a_job_is_on_its_way_turns_follow_each_other_closely(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "TURN_EVERY_S", 60.0)
    world.restart()
    job = world.submit()
    world.orchestrator.step()
    began = time.monotonic()
    assert world.orchestrator.pace.rest() is True
    assert time.monotonic() - began < 30
    # Once it runs, or takes long to begin, nothing is watched so closely.
    world.now += pace.WATCHED_FOR_S
    world.orchestrator.step()
    assert world.state(job) == "STARTING"
    assert not pace.on_its_way(world.records.find(), [], world.now)


def test_a_quick_turn_asks_ray_about_jobs_on_their_way_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.submit("first")
    world.turn()
    world.turn()
    assert world.state(first) == "RUNNING"
    asked: list[str] = []
    observe = world.ray.observe
    monkeypatch.setattr(world.ray, "observe", lambda job: asked.append(job) or observe(job))
    monkeypatch.setattr(world.ray, "machines", lambda: pytest.fail("the machines are as they were"))
    second = world.submit("second")
    world.orchestrator.step(quick=True)
    assert world.state(second) == "STARTING"
    world.ray.set(f"{second.id}.1", "RUNNING")
    world.orchestrator.step(quick=True)
    assert world.state(second) == "RUNNING"
    assert asked == [f"{second.id}.1"]


def test_the_first_turn_is_never_quick(world: World) -> None:
    job = world.submit()
    world.orchestrator.step(quick=True)
    assert world.state(job) == "STARTING"
