"""What holds for every pipeline, whatever its steps come to, and however often whoever looks after it is replaced."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.orchestrator.actions import Change
from tandem.orchestrator.jobs import Job, queue_of
from tandem.orchestrator.pipeline import SKIPPED, WAITING, Begin, Known, StopStep, decide, ready, step_state
from tandem.orchestrator.states import Reason, State

ENDS = (State.SUCCEEDED, State.FAILED, State.STOPPED)


def make_job(name: str, spec: dict[str, Any], **fields: Any) -> Job:
    made = Job(
        id=name, name=name, kind=spec.get("kind", "index"), spec=spec, state=State.QUEUED, reason=Reason.SUBMITTED,
        message="", attempt=0, acknowledged=False, stop_requested=False, judged=True, not_before=0.0, created_at=0.0,
        started_at=None, first_at=None, ended_at=None, queue=queue_of(spec), history=(),
    )  # fmt: skip
    return replace(made, **fields)


def make_pipeline(needs: dict[str, list[str]], **fields: Any) -> Job:
    steps = {
        name: {
            "needs": tied,
            "spec": {"kind": "index", "name": name, "uses": [f"${{{need}.artifact}}" for need in tied]},
        }
        for name, tied in needs.items()
    }
    return make_job("p", {"kind": "pipeline", "name": "p", "steps": steps}, **fields)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Steps, each of which may need any that come before it; in an order that says nothing."""
    count = draw(st.integers(1, 6))
    names = [f"s{number}" for number in range(count)]
    needs = {name: [other for other in names[:number] if draw(st.booleans())] for number, name in enumerate(names)}
    return {name: needs[name] for name in draw(st.permutations(names))}


@dataclass
class World:
    """A pipeline and its jobs, with whoever runs them."""

    pipeline: Job
    ends: dict[str, State]
    jobs: dict[str, Job] = field(default_factory=dict)
    before: dict[str, Job] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    changes: list[State] = field(default_factory=list)
    now: float = 100.0

    def look(self, after: int | None = None) -> int:
        """Look once and do what was decided, of it only the first `after` things; how many there were."""
        known = {
            name: Known(self.before.get(name), intact=True, inputs_at=None) for name in ready(self.pipeline, self.jobs)
        }
        actions = decide(self.pipeline, self.jobs, known, ())
        for action in actions[:after]:
            match action:
                case Begin(step, spec, _, anew):
                    assert step not in self.jobs
                    needed = [self.jobs[need] for need in self.pipeline.spec["steps"][step]["needs"]]
                    assert all(job.state is State.SUCCEEDED for job in needed)
                    assert spec["uses"] == [f"artifact:{job.name}@{job.id}" for job in needed]
                    self.begun.append(step)
                    self.jobs[step] = make_job(step, spec, created_at=self.now) if anew else self.before[step]
                case StopStep(step, _):
                    self.jobs[step] = replace(self.jobs[step], stop_requested=True)
                case Change(_, state, reason, message):
                    assert not self.pipeline.state.final
                    self.changes.append(state)
                    self.pipeline = replace(self.pipeline, state=state, reason=reason, message=message)
        return len(actions)

    def end(self, step: str) -> None:
        self.now += 1
        state = self.ends[step]
        self.jobs[step] = replace(self.jobs[step], state=state, reason=Reason.JOB_ERROR, ended_at=self.now)

    def going(self) -> list[str]:
        return [name for name, job in self.jobs.items() if not job.state.final]


@settings(max_examples=300, deadline=None)
@given(st.data(), graphs())
def test_each_step_whose_needs_succeeded_runs_once_and_nothing_behind_a_failure(
    data: st.DataObject, needs: dict[str, list[str]]
) -> None:
    ends = {name: data.draw(st.sampled_from((State.SUCCEEDED, State.SUCCEEDED, *ENDS))) for name in needs}
    world = World(make_pipeline(needs), ends)
    for _ in range(100):
        # The one who looks may be killed behind any of the things that it does; the next one looks anew.
        while world.look(after=data.draw(st.integers(1, 3))):
            pass
        if not world.going():
            break
        world.end(data.draw(st.sampled_from(world.going())))
    good: set[str] = set()
    while more := {name for name in needs if set(needs[name]) <= good and ends[name] is State.SUCCEEDED} - good:
        good |= more
    wanted = {name for name in needs if set(needs[name]) <= good}
    assert Counter(world.begun) == Counter(wanted)
    bad = wanted - good
    assert world.changes == [State.RUNNING, State.FAILED if bad else State.SUCCEEDED]
    for name in needs:
        state = step_state(name, world.pipeline, world.jobs)
        assert state == (SKIPPED if name not in wanted else ends[name])
        if name in bad:
            assert f"step {name}: {ends[name]}" in world.pipeline.message
        if name not in wanted:
            assert name in world.pipeline.message.partition("not run: ")[2]


@settings(max_examples=200, deadline=None)
@given(st.data(), graphs())
def test_a_stop_at_any_time_stops_what_goes_and_begins_nothing_more(
    data: st.DataObject, needs: dict[str, list[str]]
) -> None:
    world = World(make_pipeline(needs), dict.fromkeys(needs, State.SUCCEEDED))
    for _ in range(data.draw(st.integers(0, 8))):
        if not world.look() and world.going():
            world.end(data.draw(st.sampled_from(world.going())))
    over = world.pipeline.state.final
    world.pipeline = replace(world.pipeline, stop_requested=True)
    before = list(world.begun)
    # Who has just done its work isn't stopped any more.
    late = {name for name in world.going() if data.draw(st.booleans())}
    while world.going() and not over:
        while world.look():
            pass
        assert all(world.jobs[name].stop_requested for name in world.going())
        step = data.draw(st.sampled_from(world.going()))
        world.ends[step] = State.SUCCEEDED if step in late else State.STOPPED
        world.end(step)
    while not world.pipeline.state.final:
        assert world.look()
    assert world.begun == before
    whole = len(world.jobs) == len(needs) and all(job.state is State.SUCCEEDED for job in world.jobs.values())
    assert world.pipeline.state is (State.SUCCEEDED if whole else State.STOPPED)


def only(needs: dict[str, list[str]], **known: Known) -> dict[str, Begin]:
    """What begins first."""
    found = decide(make_pipeline(needs, state=State.RUNNING), {}, known, ())
    return {action.step: action for action in found if isinstance(action, Begin)}


def job(state: State, **fields: Any) -> Job:
    return make_job("a-1", {"kind": "index", "name": "a"}, state=state, **fields)


def test_a_step_that_is_done_is_not_run_again_unless_what_it_used_is_newer() -> None:
    def anew(latest: Job, *, intact: bool = True, inputs_at: float | None = None) -> bool:
        return only({"a": []}, a=Known(latest, intact, inputs_at))["a"].anew

    done = job(State.SUCCEEDED, created_at=10.0, ended_at=20.0)
    assert not anew(done)
    assert not anew(done, inputs_at=10.0)
    assert anew(done, inputs_at=10.5)
    assert anew(done, intact=False)
    assert anew(job(State.FAILED, created_at=10.0, ended_at=20.0))
    assert anew(job(State.STOPPED, created_at=10.0, ended_at=20.0))


def test_what_a_step_needs_makes_it_new_when_it_was_made_anew() -> None:
    pipeline = make_pipeline({"a": [], "b": ["a"]}, state=State.RUNNING)
    b = make_job("b-1", {}, state=State.SUCCEEDED, created_at=30.0, ended_at=40.0)
    for ended_at, anew in ((20.0, False), (35.0, True)):
        steps = {"a": job(State.SUCCEEDED, created_at=10.0, ended_at=ended_at)}
        (begin,) = decide(pipeline, steps, {"b": Known(b, intact=True, inputs_at=None)}, ())
        assert isinstance(begin, Begin)
        assert (begin.anew, begin.latest) == (anew, "b-1")


def test_what_was_promoted_is_not_promoted_again_because_it_was_compared_again() -> None:
    pipeline = make_pipeline({"a": [], "b": ["a"]}, state=State.RUNNING)
    steps = {"a": job(State.SUCCEEDED, created_at=10.0, ended_at=35.0)}
    for state, anew in ((State.SUCCEEDED, False), (State.FAILED, True)):
        b = replace(make_job("b-1", {}, state=state, created_at=30.0, ended_at=40.0), kind="promote")
        (begin,) = decide(pipeline, steps, {"b": Known(b, intact=True, inputs_at=None)}, ())
        assert isinstance(begin, Begin)
        assert (begin.anew, begin.latest) == (anew, "b-1")


def test_a_job_of_somebody_else_is_shared_if_it_uses_what_is_there_now_and_waited_for_if_not() -> None:
    newer = 50.0
    queued = only({"a": []}, a=Known(job(State.QUEUED, created_at=10.0), intact=False, inputs_at=newer))
    assert (queued["a"].latest, queued["a"].anew) == ("a-1", False)
    running = only({"a": []}, a=Known(job(State.RUNNING, created_at=60.0), intact=False, inputs_at=newer))
    assert not running["a"].anew
    assert only({"a": []}, a=Known(job(State.RUNNING, created_at=10.0), intact=False, inputs_at=newer)) == {}
    assert only({"a": []}, a=Known(job(State.QUEUED, stop_requested=True), intact=False, inputs_at=None)) == {}


def test_a_step_that_another_pipeline_goes_on_with_is_not_stopped() -> None:
    pipeline = make_pipeline({"a": [], "b": []}, state=State.RUNNING, stop_requested=True)
    steps = {"a": make_job("a-1", {}, state=State.RUNNING), "b": make_job("b-1", {}, state=State.RUNNING)}
    assert decide(pipeline, steps, {}, {"a-1"}) == [StopStep("b", "b-1")]
    steps["b"] = replace(steps["b"], state=State.STOPPED)
    (end,) = decide(pipeline, steps, {}, {"a-1"})
    assert isinstance(end, Change)
    assert end.state is State.STOPPED


def test_steps_without_ties_begin_together_and_the_others_wait() -> None:
    needs: dict[str, list[str]] = {"a": [], "b": [], "c": ["a", "b"]}
    nothing = Known(None, intact=False, inputs_at=None)
    assert set(only(needs, a=nothing, b=nothing)) == {"a", "b"}
    pipeline = make_pipeline(needs, state=State.RUNNING)
    assert step_state("c", pipeline, {}) == WAITING
