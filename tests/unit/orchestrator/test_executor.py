from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from stand_ins.line import finetune
from stand_ins.world import World

from tandem.errors import SpecError
from tandem.orchestrator.executor import entrypoint
from tandem.orchestrator.jobs import Job


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


def finetune_job(world: World, name: str, **queue: Any) -> Job:
    spec = finetune(4, name=name, queue=queue)
    return world.records.submit("finetune", name, spec)[0]


def test_a_fine_tune_steps_aside_and_goes_on_later(world: World) -> None:
    low = finetune_job(world, "low", preemptible=True)
    world.orchestrator.step()
    assert world.ray.metadata[f"{low.id}.1"]["project"] == "default"
    world.ray.set(f"{low.id}.1", "RUNNING")
    world.write(low, "progress.json", {"phase": "train"})
    world.orchestrator.step()
    high = finetune_job(world, "high", priority=5)
    world.orchestrator.step()
    # Written down before anything is done: whoever takes over goes on with it.
    world.restart()
    world.orchestrator.step()
    folder = world.orchestrator.files(low.id).path
    assert (folder / "step-aside").exists()
    assert world.orchestrator.waits(high.id) == (
        f"needs 4 CPUs, 0 are free; 1st in line; {low.id} must end first, and was asked to"
    )
    world.write(low, "error.json", {"type": "PreemptedError", "what": "stepped aside after step 3"})
    world.ray.set(f"{low.id}.1", "FAILED", exit_code=1)
    world.orchestrator.step()
    assert (world.state(low), world.state(high)) == ("RETRYING", "STARTING")
    assert world.records.get(low.id).message == f"made room for {high.id}: stepped aside after step 3"
    world.write(high, "result.json", {})
    world.ray.set(f"{high.id}.1", "SUCCEEDED")
    world.orchestrator.step()
    assert (world.state(low), world.state(high)) == ("STARTING", "SUCCEEDED")
    assert not (folder / "step-aside").exists()


def test_one_that_does_not_step_aside_in_time_is_ended(world: World) -> None:
    low = finetune_job(world, "low", preemptible=True)
    world.orchestrator.step()
    world.ray.set(f"{low.id}.1", "RUNNING")
    high = finetune_job(world, "high", priority=5)
    for _ in range(3):
        world.orchestrator.step()
    assert world.state(low) == "RUNNING"
    world.now += world.rules.grace_s
    world.orchestrator.step()
    world.orchestrator.step()
    assert (world.state(low), world.state(high)) == ("RETRYING", "STARTING")
    assert world.records.get(low.id).reason == "preempted"


def test_workers_that_do_not_come_end_the_attempt_also_in_the_middle_of_a_run(world: World) -> None:
    job = finetune_job(world, "a", max_start_s=60)
    world.orchestrator.step()
    world.ray.set(f"{job.id}.1", "RUNNING")
    world.write(job, "progress.json", {"phase": "train", "done": 7})
    world.orchestrator.step()
    assert world.orchestrator.waits(job.id) is None
    world.now += 1000
    # As Ray Train's controller says it; no progress is reported any more.
    (world.orchestrator.files(job.id).path / "workers-lost").touch()
    world.orchestrator.step()
    world.now += 59
    world.orchestrator.step()
    assert world.orchestrator.waits(job.id) == "starting for 59 s, of at most 60 s"
    world.now += 1
    for _ in range(3):
        world.orchestrator.step()
    retried = world.records.get(job.id)
    assert (retried.state, retried.reason) == ("RETRYING", "start_timeout")
    assert retried.message == "its workers hadn't come after 60 s (queue.max_start_s)"
    world.now += 60
    world.orchestrator.step()
    # The next attempt isn't taken for one that has lost them.
    assert world.orchestrator.files(job.id).phase() is None


def test_a_job_that_could_never_start_is_refused_where_ray_can_be_asked(world: World) -> None:
    world.ray.down = True
    assert not world.orchestrator.judge(finetune(5))
    world.orchestrator.step()
    # A turn has found Ray away: nobody asks it again for each submission.
    world.ray.down = False
    assert not world.orchestrator.judge(finetune(5))
    world.orchestrator.step()
    assert world.orchestrator.judge(finetune(4))
    with pytest.raises(SpecError) as refused:
        world.orchestrator.judge(finetune(5))
    assert refused.value.where == "job t: workers, cpus_per_worker, gpus_per_worker"
    assert refused.value.what == (
        "could never start, however empty the cluster is: needs 5 CPUs, the cluster has 4 CPUs"
    )
    assert "ask for less" in str(refused.value.remedy)


def test_a_cluster_elsewhere_is_judged_by_when_no_machine_has_come_for_a_minute(world: World) -> None:
    world.cluster = replace(world.cluster, local=False)
    world.restart()
    world.ray.nodes = []
    job = finetune_job(world, "a")
    for nodes, seconds in (([], 100), ([{"CPU": 1.0}], 59), ([{"CPU": 1.0}] * 2, 59)):
        world.ray.nodes = nodes
        world.orchestrator.step()
        world.now += seconds
        world.orchestrator.step()
        assert not world.orchestrator.judge(finetune(5))
        assert world.state(job) == "QUEUED"
    world.now += 1
    with pytest.raises(SpecError):
        world.orchestrator.judge(finetune(5))
    world.orchestrator.step()
    assert (world.state(job), world.records.get(job.id).reason) == ("FAILED", "user_error")


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


def logged(caplog: pytest.LogCaptureFixture, job: Job) -> list[str]:
    return [record.message for record in caplog.records if job.id in record.message and record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("call", "then"), [("observe", "it goes on when that is mended"), ("submit", "it is tried again")]
)
def test_a_job_on_which_the_loop_fails_keeps_no_other_one(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str, then: str
) -> None:
    bad, other = world.submit("bad"), world.submit("other")
    real = getattr(world.ray, call)

    def fail(submission_id: str, *arguments: Any) -> Any:
        if submission_id.startswith("bad"):
            raise RuntimeError("no such luck")
        return real(submission_id, *arguments)

    monkeypatch.setattr(world.ray, call, fail)
    for _ in range(3):
        world.orchestrator.step()
    assert world.ray.submit_calls[-1] == f"{other.id}.1"
    assert world.records.get(other.id).acknowledged
    says = f"RuntimeError: no such luck (a fault of ours; the server's log says where): {then}"
    assert world.orchestrator.waits(bad.id) == says
    assert logged(caplog, bad) == [f"{bad.id}: {says}"]
    assert any(record.exc_info for record in caplog.records)


def test_a_spec_that_another_version_took_runs_with_todays_defaults_or_fails_alone(world: World) -> None:
    spec = finetune(4, name="old")
    del spec["accelerator_type"]
    old, _ = world.records.submit("finetune", "old", spec)
    strange, _ = world.records.submit("finetune", "strange", {**finetune(1, name="strange"), "wings": 2})
    world.orchestrator.step()
    assert (world.state(old), world.state(strange)) == ("STARTING", "FAILED")
    assert world.records.get(old.id).spec == spec
    ended = world.records.get(strange.id)
    assert ended.reason == "user_error"
    assert "can't run it: wings: " in ended.message
    # One that was running when the version changed holds what it holds.
    assert ended.demands[0].needs == {"CPU": 1}


def test_values_that_cannot_be_read_fail_their_job_alone(world: World) -> None:
    job = world.submit(runtime={"env": {"WORD": None}})
    world.orchestrator.secrets.keep(job.id, {"WORD": "x"})
    (world.orchestrator.secrets.folder / f"{job.id}.json").write_text('{"WO')
    world.orchestrator.step()
    ended = world.records.get(job.id)
    assert (ended.state, ended.reason) == ("FAILED", "start_failed")
    assert "can't be read" in ended.message
