from __future__ import annotations

import json

import pytest
from stand_ins.world import World

from tandem.orchestrator.executor import entrypoint


def test_a_job_from_the_queue_to_its_result(world: World) -> None:
    job = world.submit()
    world.orchestrator.step()
    assert world.state(job) == "STARTING"
    submission = f"{job.id}.1"
    assert world.ray.entrypoints[submission].startswith("exec ")
    assert world.ray.environments[submission]["TANDEM_STORAGE"] == str(world.cluster.storage)
    spec = json.loads((world.orchestrator.files(job.id).path / "spec.json").read_text())
    assert spec == job.spec

    world.ray.set(submission, "RUNNING", printed="reading\n")
    world.orchestrator.step()
    assert world.state(job) == "RUNNING"

    world.write(job, "result.json", {"chunks": 3})
    world.ray.set(submission, "SUCCEEDED", printed="done\n")
    world.now += 0.1
    world.orchestrator.step()
    assert world.state(job) == "SUCCEEDED"
    # The last lines are copied before the end is written down.
    assert world.orchestrator.files(job.id).read_log(0) == (b"reading\ndone\n", 13)


class Killed(BaseException):
    """Stands for the death of the server at that very place."""


def test_the_intention_is_on_disk_before_ray_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise Killed

    job = world.submit()
    with monkeypatch.context() as patch:
        patch.setattr(world.ray, "submit", die)
        with pytest.raises(Killed):
            world.orchestrator.step()
    world.restart()
    assert world.state(job) == "STARTING"
    world.orchestrator.step()
    assert world.ray.submit_calls == [f"{job.id}.1"]
    world.orchestrator.step()
    assert world.ray.submit_calls == [f"{job.id}.1"]


def test_a_killed_driver_is_tried_again_with_a_clean_folder(world: World) -> None:
    job = world.submit()
    world.orchestrator.step()
    world.write(job, "progress.json", {"phase": "embed"})
    world.ray.set(f"{job.id}.1", "FAILED", printed="one\n", exit_code=-9)
    world.orchestrator.step()
    assert world.state(job) == "RETRYING"
    world.orchestrator.step()
    assert world.ray.submit_calls == [f"{job.id}.1"]
    world.now += 10
    world.orchestrator.step()
    assert world.ray.submit_calls == [f"{job.id}.1", f"{job.id}.2"]
    assert world.orchestrator.files(job.id).progress() is None
    world.ray.set(f"{job.id}.2", "RUNNING", printed="two\n")
    world.orchestrator.step()
    assert world.orchestrator.files(job.id).read_log(0)[0] == b"one\ntwo\n"


def test_a_job_goes_on_unjudged_while_the_head_is_away_and_again_when_it_has_forgotten(world: World) -> None:
    job = world.submit()
    world.orchestrator.step()
    world.ray.set(f"{job.id}.1", "RUNNING")
    world.orchestrator.step()
    world.ray.down = True
    world.orchestrator.step()
    assert not world.orchestrator.ray_reachable
    assert world.state(job) == "RUNNING"
    world.ray.down = False
    world.ray.forget()
    world.restart()
    world.orchestrator.step()
    assert world.state(job) == "RETRYING"
    assert world.records.get(job.id).reason == "head_lost"


def test_a_stop_reaches_ray_and_is_written_down(world: World) -> None:
    job = world.submit()
    world.orchestrator.step()
    world.ray.set(f"{job.id}.1", "RUNNING")
    world.records.request_stop(job.id)
    world.orchestrator.step()
    world.orchestrator.step()
    assert world.state(job) == "STOPPED"
    assert [event["state"] for event in world.records.events(job.id)] == ["QUEUED", "STARTING", "RUNNING", "STOPPED"]


def test_the_entrypoint_execs_so_that_a_killed_driver_is_seen(world: World) -> None:
    command = entrypoint(world.cluster, world.cluster.storage / "a folder")
    assert command.startswith("exec ")
    assert command.endswith(f"-m tandem.runner '{world.cluster.storage}/a folder'")


def test_a_log_is_read_in_pieces_cut_between_characters(world: World) -> None:
    job = world.submit()
    files = world.orchestrator.files(job.id)
    files.append_log(1, "a")
    files.append_log(1, "aé\n")
    text, offset = files.read_log(1)
    assert text.decode() == "é\n"
    assert files.read_log(offset) == (b"", offset)
    assert files.read_log(99) == (b"", offset)
    # The second attempt couldn't be started: it has no log.
    files.append_log(3, "third\n")
    assert files.read_log(offset)[0] == b"third\n"
