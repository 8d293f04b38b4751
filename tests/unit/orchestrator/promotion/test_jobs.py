"""Jobs of kind `promote`: they end when the endpoint answers, and leave it as it was where it doesn't."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from stand_ins.documents import eventually
from stand_ins.models import BASE, GOOD, MIDDLING, POOR, Bench, compare, make_model
from stand_ins.world import World

from tandem.orchestrator.deploying.releases import Act
from tandem.orchestrator.jobs import Job, Submitter
from tandem.orchestrator.promotion.jobs import AGAIN_AFTER_S
from tandem.orchestrator.states import Reason, State
from tandem.specs import PipelineSpec, PromoteSpec


@pytest.fixture
def bench(world: World) -> Bench:
    made = Bench(world)
    made.deploy()
    world.orchestrator.promotions.promoter = made.promoter
    return made


def submit(world: World, **fields: Any) -> Job:
    given = {"kind": "promote", "name": "up", "model": "artifact:tuned", **fields}
    spec = PromoteSpec.model_validate(given).canonical()
    return world.records.submit("promote", "up", spec, by=Submitter("grace"))[0]


def ended(world: World, job: Job) -> Job:
    """The job, once the loop has turned as often as it takes."""

    def final() -> bool:
        world.orchestrator.step()
        return world.records.get(job.id).state.final

    assert eventually(final, within_s=30)
    return world.records.get(job.id)


def starting(world: World, bench: Bench) -> Job:
    """A job that has promoted a version, which is yet to come up."""
    bench.version("v-1")
    bench.hold("v-1", "DEPLOYING", "it starts")
    job = submit(world)
    world.orchestrator.step()
    assert eventually(lambda: bench.answering() != BASE, within_s=30)
    return job


def result(world: World, job: Job) -> dict[str, Any]:
    found = world.orchestrator.files(job.id).result()
    assert found is not None
    return found


@pytest.mark.parametrize("named", ["artifact:tuned", "artifact:tuned@v-1"])
def test_a_version_takes_over_as_by_hand(world: World, bench: Bench, named: str) -> None:
    bench.version("v-1")
    job = ended(world, submit(world, model=named, app="rag"))
    assert (job.state, job.reason) == (State.SUCCEEDED, Reason.DONE)
    assert job.message == "rag: v-1 answers; before: the base model"
    assert bench.answering() == "artifact:tuned@v-1"
    assert result(world, job)["standing"]["report"] == "c-v-1"
    release = bench.deployer.releases.of("rag")[0]
    assert (release.act, release.by) == (Act.PROMOTE, "grace")
    assert [event["state"] for event in world.records.events(job.id)] == ["QUEUED", "RUNNING", "SUCCEEDED"]


def test_a_canary(world: World, bench: Bench) -> None:
    bench.version("v-1")
    job = ended(world, submit(world, canary=0.25))
    assert job.message == "rag: v-1 answers 25% of the conversations; the base model the rest"


def test_what_the_comparisons_refuse_nobody_can_force(world: World, bench: Bench) -> None:
    bench.version("v-1", skill=POOR)
    job = ended(world, submit(world))
    assert (job.state, job.reason) == (State.FAILED, Reason.NOT_PROMOTED)
    assert "it is worse" in job.message
    assert bench.answering() == BASE


def test_a_mistake_is_the_users(world: World, bench: Bench) -> None:
    job = ended(world, submit(world, model="artifact:unknown"))
    assert (job.state, job.reason) == (State.FAILED, Reason.USER_ERROR)
    assert "no artifact artifact:unknown" in job.message


def test_what_does_not_come_up_is_taken_back(world: World, bench: Bench) -> None:
    bench.version("v-1")
    bench.hold("v-1", "DEPLOY_FAILED", "no room for it")
    job = ended(world, submit(world))
    assert (job.state, job.reason) == (State.FAILED, Reason.JOB_ERROR)
    assert job.message == "rag: v-1 didn't come up, and was taken back: no room for it"
    assert bench.answering() == BASE
    assert [release.act for release in bench.deployer.releases.of("rag", limit=2)] == [Act.ROLLBACK, Act.PROMOTE]


def test_it_is_taken_back_also_by_the_next_server(world: World, bench: Bench) -> None:
    job = starting(world, bench)
    world.orchestrator.promotions.stand_by()
    # What was the newest version then isn't any more.
    make_model(bench.storage, "tuned", "v-2")
    bench.serve.state = "DEPLOY_FAILED"
    job = ended(world, job)
    assert job.message == "rag: v-1 didn't come up, and was taken back: it starts"
    assert bench.answering() == BASE


def test_what_others_do_meanwhile_stays(world: World, bench: Bench) -> None:
    job = starting(world, bench)
    bench.promoter.rollback("tuned", by="ada")
    job = ended(world, job)
    assert (job.state, job.reason) == (State.FAILED, Reason.JOB_ERROR)
    assert "v-1 was promoted, but somebody else has put another in its place meanwhile" in job.message
    newest = bench.deployer.releases.of("rag")[0]
    assert (newest.act, newest.by) == (Act.ROLLBACK, "ada")


def test_an_endpoint_that_is_not_up_is_left_alone(world: World, bench: Bench) -> None:
    bench.version("v-1")
    bench.hold("", "UNHEALTHY", "a replica is ill")
    job = submit(world, queue={"max_start_s": 0.5})
    world.orchestrator.step()
    world.now += 1
    job = ended(world, job)
    assert job.message == "rag: it isn't up, and nothing was changed: a replica is ill"
    assert bench.answering() == BASE


def test_one_that_gets_well_is_waited_for(world: World, bench: Bench) -> None:
    bench.version("v-1")
    bench.hold("", "UNHEALTHY", "a replica is ill")
    job = submit(world)
    world.orchestrator.step()
    bench.serve.message = ""
    assert ended(world, job).state is State.SUCCEEDED


def test_it_waits_while_ray_serve_is_away(world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.version("v-1")

    def away(*_: Any, **__: Any) -> httpx.Response:
        return httpx.Response(503)

    job = submit(world)
    with monkeypatch.context() as patched:
        patched.setattr(bench.deployer.ray, "call", away)

        def told() -> bool:
            world.orchestrator.step()
            return "Ray Serve doesn't answer" in (world.orchestrator.waits(job.id) or "")

        assert eventually(told, within_s=30)
        assert world.state(job) == "RUNNING"
        world.now += AGAIN_AFTER_S
        assert eventually(told, within_s=30)
    world.now += AGAIN_AFTER_S
    assert ended(world, job).state is State.SUCCEEDED
    assert bench.answering() == "artifact:tuned@v-1"


def test_a_server_that_comes_back_goes_on(world: World, bench: Bench) -> None:
    bench.version("v-1")
    job = submit(world)
    world.records.change(job.id, State.RUNNING, Reason.ADMITTED)
    # It had got as far as this.
    bench.promoter.promote("tuned", "v-1")
    deploys = bench.serve.deploys
    world.restart()
    world.orchestrator.promotions.promoter = bench.promoter
    assert ended(world, job).state is State.SUCCEEDED
    assert bench.serve.deploys == deploys


def test_it_is_stopped_before_it_begins_and_while_it_waits_for_the_endpoint(world: World, bench: Bench) -> None:
    bench.version("v-1")
    job = submit(world)
    world.records.request_stop(job.id)
    assert ended(world, job).state is State.STOPPED
    assert bench.answering() == BASE
    job = submit(world, app="rag")
    bench.hold("v-1", "DEPLOYING", "it starts")
    world.orchestrator.step()
    assert eventually(lambda: bench.answering() != BASE, within_s=30)
    world.records.request_stop(job.id)
    job = ended(world, job)
    assert job.state is State.STOPPED
    assert job.message == "stopped on request; rag: v-1 answers; before: the base model"


def test_the_last_step_of_a_pipeline(world: World, bench: Bench) -> None:
    tune = {"kind": "finetune", "name": "tuned", "model": BASE, "data": {"train": "hf:org/rows"}}
    up = {"kind": "promote", "name": "up", "model": "${tune.artifact}", "app": "rag"}
    steps = {"tune": {"spec": tune}, "up": {"spec": up}}
    spec = PipelineSpec.model_validate({"kind": "pipeline", "name": "weekly", "steps": steps}).canonical()
    pipeline = world.records.submit("pipeline", "weekly", spec, by=Submitter("grace"))[0]
    world.turn()
    (trained,) = world.records.find(kind="finetune")
    # What its job and a comparison leave.
    make_model(bench.storage, "tuned", trained.id)
    asked = {"raft": f"tuned@{trained.id}"}
    compare(bench.storage, "c-1", skill={"rag": MIDDLING, "raft": GOOD}, adapters=asked)

    def through(job: Job) -> Job:
        def final() -> bool:
            world.turn()
            return world.records.get(job.id).state.final

        assert eventually(final, within_s=30)
        return world.records.get(job.id)

    assert through(pipeline).state is State.SUCCEEDED
    assert bench.answering() == f"artifact:tuned@{trained.id}"
    made = json.loads((bench.storage / "jobs" / pipeline.id / "result.json").read_text())
    assert made["steps"]["up"]["version"] == trained.id
    # Somebody has taken it back since: what is done stays done, and isn't promoted again behind their back.
    bench.promoter.rollback("tuned")
    again = world.records.submit("pipeline", "weekly", spec, again=True, by=Submitter("grace"))[0]
    assert through(again).state is State.SUCCEEDED
    assert bench.answering() == BASE
    assert len(world.records.find(kind="promote")) == 1
