"""Pipelines through the whole orchestrator: their steps are jobs of the queue, and no kill loses or doubles one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from stand_ins.world import World, make_cluster

from tandem.errors import SpecError
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.jobs import Job, Submitter
from tandem.orchestrator.records import Records
from tandem.specs import PipelineSpec


def index(name: str, *, source: str = "/docs", **fields: Any) -> dict[str, Any]:
    return {"kind": "index", "name": name, "sources": [source], **fields}


def compare(name: str, *, collection: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "compare", "name": name, "model": "hf:a/b", "eval": "/e.jsonl", "collection": collection, **fields}


def tune(name: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "finetune", "name": name, "model": "hf:a/b", "data": {"train": "/t.jsonl"}, **fields}


def chain(name: str = "p", **fields: Any) -> dict[str, Any]:
    """docs and tune side by side, and a comparison that uses both."""
    last = compare("c", collection="${docs.collection}", arms=["base", "raft"], raft_adapter="${tune.artifact}")
    steps = {"docs": {"spec": index("i")}, "tune": {"spec": tune("t")}, "compare": {"spec": last}}
    return {"kind": "pipeline", "name": name, "steps": steps, **fields}


def submit(world: World, data: dict[str, Any], *, again: bool = False) -> Job:
    spec = PipelineSpec.model_validate(data).canonical()
    return world.records.submit("pipeline", spec["name"], spec, again=again, judged=True)[0]


def steps(world: World, pipeline: Job) -> dict[str, tuple[str, str | None]]:
    """By step, its state and job."""
    found = world.orchestrator.pipelines.describe(world.records.get(pipeline.id))
    return {step["step"]: (step["state"], step["job"]) for step in found}


def states(world: World, pipeline: Job) -> dict[str, str]:
    return {name: state for name, (state, _) in steps(world, pipeline).items()}


def end(world: World, job_id: str | None, state: str = "SUCCEEDED") -> None:
    """A job's driver ends, and leaves what a driver leaves."""
    assert job_id is not None
    job = world.records.get(job_id)
    if state == "SUCCEEDED":
        folder = world.cluster.storage / "artifacts" / job.name / job.id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text("{}")
        world.write(job, "result.json", {"artifact": str(folder)})
    world.ray.set(job.submission_id, state, exit_code=0 if state == "SUCCEEDED" else 1)


def run(world: World, pipeline: Job, *, failing: tuple[str, ...] = ()) -> list[str]:
    """Turn until the pipeline has ended; the steps whose jobs ran, in the order of their starts."""
    ran: list[str] = []
    for _ in range(50):
        world.now += 1
        world.orchestrator.step()
        if world.records.get(pipeline.id).state.final:
            return ran
        for name, (state, job_id) in steps(world, pipeline).items():
            if state == "STARTING" and name not in ran:
                ran.append(name)
                end(world, job_id, "FAILED" if name in failing else "SUCCEEDED")
    pytest.fail(f"it doesn't end: {steps(world, pipeline)}")


def test_a_pipeline_runs_what_has_no_ties_side_by_side_and_hands_on_what_was_made(world: World) -> None:
    pipeline = submit(world, chain(queue={"priority": 3}))
    world.orchestrator.step()
    assert world.state(pipeline) == "RUNNING"
    # Its steps are jobs like others: the next turn starts them.
    assert states(world, pipeline) == {"docs": "QUEUED", "tune": "QUEUED", "compare": "WAITING"}
    world.orchestrator.step()
    assert states(world, pipeline) == {"docs": "STARTING", "tune": "STARTING", "compare": "WAITING"}
    assert world.orchestrator.waits(pipeline.id) == "0 of 3 steps done; docs STARTING, tune STARTING".replace(
        ", ", "; "
    )
    for name in ("docs", "tune"):
        end(world, steps(world, pipeline)[name][1])
        world.now += 1
        world.orchestrator.step()
    made = steps(world, pipeline)
    last = world.records.get(str(made["compare"][1]))
    assert last.spec["raft_adapter"] == f"artifact:t@{made['tune'][1]}"
    assert (last.spec["collection"], last.queue.priority, last.judged) == ("i", 3, True)
    world.orchestrator.step()
    assert world.ray.submit_calls[-1] == f"{last.id}.1"
    end(world, last.id)
    world.orchestrator.step()
    assert world.state(pipeline) == "SUCCEEDED"
    # No driver of its own was ever asked for.
    assert not [call for call in world.ray.submit_calls if call.startswith(pipeline.id)]
    result = world.orchestrator.files(pipeline.id).result()
    assert result is not None
    assert {name: step["job"] for name, step in result["steps"].items()} == {n: job for n, (_, job) in made.items()}
    assert result["steps"]["tune"]["artifact"].endswith(str(made["tune"][1]))
    assert [each["state"] for each in world.records.events(pipeline.id)] == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert world.records.attempts(pipeline.id) == []


def test_a_failed_step_ends_what_needs_it_and_nothing_else(world: World) -> None:
    data = chain()
    data["steps"]["other"] = {"spec": index("o"), "needs": ["docs"]}
    pipeline = submit(world, data)
    assert run(world, pipeline, failing=("tune",)) == ["docs", "tune", "other"]
    assert states(world, pipeline) == {
        "docs": "SUCCEEDED", "tune": "FAILED", "compare": "SKIPPED", "other": "SUCCEEDED"
    }  # fmt: skip
    ended = world.records.get(pipeline.id)
    assert (ended.state, ended.reason) == ("FAILED", "step_failed")
    assert ended.message.startswith("step tune: FAILED (job_error)")
    assert ended.message.endswith("; not run: compare")
    # Once more, what is done stays done, and what failed is tried again.
    again = submit(world, data, again=True)
    assert again.id == f"{pipeline.id}-2"
    assert run(world, again) == ["tune", "compare"]
    assert world.state(again) == "SUCCEEDED"
    reused = {step["step"] for step in world.orchestrator.pipelines.describe(again) if step["reused"]}
    assert reused == {"docs", "other"}
    assert steps(world, again)["tune"][1] == f"{steps(world, pipeline)['tune'][1]}-2"


def test_what_one_pipeline_has_done_another_does_not_do_again(world: World) -> None:
    first = submit(world, chain())
    assert run(world, first) == ["docs", "tune", "compare"]
    other = chain("q")
    del other["steps"]["compare"]
    assert run(world, submit(world, other)) == []
    # Submitted by hand is as good.
    alone = {"kind": "pipeline", "name": "r", "steps": {"x": {"spec": index("hand")}}}
    spec = PipelineSpec.model_validate(alone).canonical()["steps"]["x"]["spec"]
    job, _ = world.records.submit("index", "hand", spec)
    world.orchestrator.step()
    end(world, job.id)
    world.orchestrator.step()
    assert run(world, submit(world, alone)) == []


def test_what_was_made_anew_by_hand_makes_what_needs_it_anew(world: World) -> None:
    data = chain()
    data["steps"]["compare"]["spec"].pop("raft_adapter")
    data["steps"]["compare"]["spec"]["arms"] = ["base", "rag"]
    assert run(world, submit(world, data)) == ["docs", "tune", "compare"]
    spec = PipelineSpec.model_validate(data).canonical()["steps"]["docs"]["spec"]
    world.now += 1
    job, _ = world.records.submit("index", "i", spec, again=True)
    world.orchestrator.step()
    end(world, job.id)
    world.now += 1
    world.orchestrator.step()
    assert run(world, submit(world, data, again=True)) == ["compare"]


def test_changed_files_and_lost_artifacts_are_made_anew(world: World, tmp_path: Path) -> None:
    docs = tmp_path / "folder"
    docs.mkdir()
    (docs / "a.md").write_text("a")
    for path in (docs / "a.md", docs):
        os.utime(path, (world.now, world.now))
    data = chain()
    data["steps"]["docs"]["spec"] = index("i", source=str(docs))
    assert run(world, submit(world, data)) == ["docs", "tune", "compare"]
    assert run(world, submit(world, data, again=True)) == []
    world.now += 1
    os.utime(docs / "a.md", (world.now, world.now))
    assert run(world, submit(world, data, again=True)) == ["docs", "compare"]
    job = steps(world, submit(world, data))["tune"][1]
    (world.cluster.storage / "artifacts" / "t" / str(job) / "manifest.json").unlink()
    # The comparison used the adapter that is lost: it is another one now.
    assert run(world, submit(world, data, again=True)) == ["tune", "compare"]


def test_a_collection_that_another_index_has_filled_since_is_filled_again(world: World) -> None:
    small, large = ({"kind": "pipeline", "name": name, "steps": {"x": {"spec": index("i", chunk={"tokens": tokens})}}}
                    for name, tokens in (("small", 50), ("large", 100)))  # fmt: skip
    assert run(world, submit(world, small)) == ["x"]
    assert run(world, submit(world, large)) == ["x"]
    assert run(world, submit(world, large, again=True)) == []
    assert run(world, submit(world, small, again=True)) == ["x"]


def test_two_pipelines_share_a_job_and_stopping_one_leaves_it_to_the_other(world: World) -> None:
    first, second = submit(world, chain("p")), submit(world, chain("q"))
    for _ in range(2):
        world.orchestrator.step()
    assert steps(world, first) == steps(world, second)
    assert len(world.ray.submit_calls) == 2
    world.records.request_stop(first.id)
    world.orchestrator.step()
    assert world.state(first) == "STOPPED"
    assert states(world, first)["compare"] == "SKIPPED"
    assert states(world, second)["docs"] == "STARTING"
    world.records.request_stop(second.id)
    for _ in range(3):
        world.orchestrator.step()
    assert world.state(second) == "STOPPED"
    assert states(world, second) == {"docs": "STOPPED", "tune": "STOPPED", "compare": "SKIPPED"}


def test_what_somebody_submitted_by_hand_is_used_and_not_stopped(world: World) -> None:
    data = chain()
    spec = PipelineSpec.model_validate(data).canonical()["steps"]["docs"]["spec"]
    job, _ = world.records.submit("index", "i", spec)
    pipeline = submit(world, data)
    for _ in range(2):
        world.orchestrator.step()
    assert steps(world, pipeline)["docs"] == ("STARTING", job.id)
    world.records.request_stop(pipeline.id)
    for _ in range(3):
        world.orchestrator.step()
    assert world.state(pipeline) == "STOPPED"
    assert states(world, pipeline) == {"docs": "STARTING", "tune": "STOPPED", "compare": "SKIPPED"}


def test_submitted_again_with_another_priority_its_waiting_steps_have_it_too(world: World) -> None:
    world.ray.down = True
    pipeline = submit(world, chain())
    world.orchestrator.step()
    changed = submit(world, chain(queue={"priority": 7}))
    assert changed.id == pipeline.id
    world.orchestrator.pipelines.requeue(changed)
    jobs = [world.records.get(str(steps(world, pipeline)[name][1])) for name in ("docs", "tune")]
    assert [job.queue.priority for job in jobs] == [7, 7]
    world.ray.down = False
    assert run(world, pipeline) == ["docs", "tune", "compare"]
    assert world.records.get(str(steps(world, pipeline)["compare"][1])).queue.priority == 7


def test_a_step_that_is_somebody_elses_job_stays_queued_as_it_is(world: World) -> None:
    world.ray.down = True
    data = PipelineSpec.model_validate(chain(queue={"priority": 7})).canonical()
    docs = {**data["steps"]["docs"]["spec"], "queue": {"priority": 1}}
    job, _ = world.records.submit("index", "i", docs, by=Submitter("ada"))
    pipeline, _ = world.records.submit("pipeline", data["name"], data, by=Submitter("bob"))
    world.orchestrator.step()
    world.orchestrator.pipelines.requeue(pipeline)
    assert steps(world, pipeline)["docs"] == ("QUEUED", job.id)
    tune = world.records.get(str(steps(world, pipeline)["tune"][1]))
    assert (world.records.get(job.id).queue.priority, tune.queue.priority) == (1, 7)


def test_a_pipeline_with_a_step_that_could_never_start_is_refused(world: World) -> None:
    world.orchestrator.step()
    data = chain()
    data["steps"]["tune"]["spec"] |= {"workers": 5, "schedule": {"batch_size": 20}}
    with pytest.raises(SpecError, match="job t"):
        world.orchestrator.judge(PipelineSpec.model_validate(data).canonical())
    assert world.orchestrator.judge(PipelineSpec.model_validate(chain()).canonical())


class Killed(BaseException):
    """Stands for the death of the server at that very place."""


def step_killed_at(world: World, write: int) -> bool:
    """One turn, in which the server dies before its n-th write to the database; whether it came that far."""
    writes = 0
    engine = world.records.database.engine

    @event.listens_for(engine, "before_cursor_execute")
    def _count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal writes
        if statement.startswith(("INSERT", "UPDATE")):
            writes += 1
            if writes > write:
                raise Killed

    try:
        world.orchestrator.step()
    except Killed:
        world.restart()
        return True
    event.remove(engine, "before_cursor_execute", _count)
    return False


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_server_killed_at_any_write_neither_loses_nor_doubles_a_step(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cluster = make_cluster(tmp_path_factory.mktemp("world"))
    world = World(cluster, Records(cluster.database_url, clock=lambda: world.now))
    spec = chain()
    spec["steps"]["other"] = {"spec": index("o"), "needs": ["docs"]}
    pipeline = submit(world, spec)
    failing = data.draw(st.sampled_from([(), ("tune",), ("docs",)]))
    kills = data.draw(st.lists(st.integers(0, 9), max_size=15))
    ended: set[str] = set()
    for turn in range(60):
        world.now += 1
        step_killed_at(world, kills[turn] if turn < len(kills) else 99)
        if world.records.get(pipeline.id).state.final:
            break
        for name, (_, job_id) in steps(world, pipeline).items():
            if job_id and f"{job_id}.1" in world.ray.entrypoints and job_id not in ended:
                ended.add(job_id)
                end(world, job_id, "FAILED" if name in failing else "SUCCEEDED")
    made = steps(world, pipeline)
    begun = [job for _, job in made.values() if job]
    assert len(begun) == {(): 4, ("tune",): 3, ("docs",): 2}[failing]
    assert sorted(job.id for job in world.records.find()) == sorted([pipeline.id, *begun])
    assert sorted(set(world.ray.submit_calls)) == sorted(f"{job}.1" for job in begun)
    changes = [each["state"] for each in world.records.events(pipeline.id)]
    assert changes == ["QUEUED", "RUNNING", "FAILED" if failing else "SUCCEEDED"]
    world.records.close()


def test_a_turn_without_pipelines_looks_for_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit()
    monkeypatch.setattr(Orchestrator, "_do", lambda *_: None)
    engine, statements = world.records.database.engine, []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    world.orchestrator.step()
    assert not [statement for statement in statements if "pipeline_steps" in statement]
