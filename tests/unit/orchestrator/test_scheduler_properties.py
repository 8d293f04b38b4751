"""What holds for every line, whoever comes and however long jobs run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins.line import RULES, make_room

from tandem.orchestrator.resources import Demand, Room, lacking, summed
from tandem.orchestrator.scheduler import Holding, Plan, Rules, Waiting, schedule

PASSING = 4  # turns; a turn takes a second
LONGEST = 6
TOTAL = {"CPU": 4.0, "GPU": 2.0}
ROOM = make_room({"CPU": 2.0, "GPU": 2.0}, {"CPU": 2.0})
QUOTAS = {"a": {"CPU": 2.0}, "b": {"GPU": 1.0, "CPU": 3.0}}


@dataclass(frozen=True)
class Comes:
    """A job that will be submitted.

    Attributes:
        at: When.
        each: What each of its workers needs.
        least: Workers.
        most: The same, at most.
        seconds: How long it works in all; to step aside costs nothing.
        saves: Seconds until it steps aside when it is asked to.
    """

    at: int
    each: tuple[float, float]
    least: int
    most: int
    project: str
    priority: int
    preemptible: bool
    seconds: int
    saves: int

    @property
    def demand(self) -> Demand:
        each = {name: amount for name, amount in zip(("CPU", "GPU"), self.each, strict=True) if amount}
        return Demand(((each, self.least),), summed([(each, self.least)]), summed([(each, self.most)]))


def comes(**fixed: object) -> st.SearchStrategy[Comes]:
    fields = {
        "at": st.integers(0, 12),
        "each": st.tuples(st.sampled_from([1.0, 2.0]), st.sampled_from([0.0, 0.0, 0.5, 1.0])),
        "least": st.integers(1, 2),
        "most": st.integers(2, 4),
        "project": st.sampled_from(["a", "b", "c"]),
        "priority": st.integers(0, 2),
        "preemptible": st.booleans(),
        "seconds": st.integers(1, LONGEST),
        "saves": st.integers(0, 3),
    }
    return st.builds(Comes, **{**fields, **{name: st.just(value) for name, value in fixed.items()}})


@dataclass
class World:
    """A cluster in which time goes on."""

    rules: Rules
    room: Room = ROOM
    now: int = 0
    line: list[Waiting] = field(default_factory=list)
    running: dict[str, Holding] = field(default_factory=dict)
    jobs: dict[str, Comes] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    goes_at: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=count)

    def submit(self, coming: Comes) -> str:
        name = f"j{next(self.ids):04}"
        self.jobs[name], self.left[name] = coming, coming.seconds
        self.line.append(
            Waiting(
                id=name, project=coming.project, priority=coming.priority, demand=coming.demand, attempt=1, judged=True,
                not_before=0.0, first_at=None,
            )
        )  # fmt: skip
        return name

    def turn(self) -> Plan:
        """Let a second pass, look once, and do what was decided."""
        self.now += 1
        waiting = {job.id: job for job in self.line}
        for name in list(self.running):
            self.left[name] -= 1
            gone = self.goes_at.get(name)
            if self.left[name] <= 0:
                self.done.append(name)
            elif gone is not None and gone <= self.now:
                coming = self.jobs[name]
                waiting[name] = Waiting(
                    name, coming.project, coming.priority, coming.demand, 2, True, 0.0, None
                )  # fmt: skip
            else:
                continue
            del self.running[name]
            self.goes_at.pop(name, None)
        self.line = sorted(waiting.values(), key=lambda job: job.id)
        before = list(self.running.values())
        plan = schedule(self.line, before, self.room, self.rules, float(self.now))
        self.check(plan, before)
        for victim, _ in plan.preempts:
            self.running[victim] = replace(self.running[victim], leaving=True)
            self.goes_at[victim] = self.now + self.jobs[victim].saves
        for name in plan.starts:
            coming = self.jobs[name]
            held = self.room.held_by(coming.demand)
            self.running[name] = Holding(
                name, coming.project, coming.priority, held, coming.preemptible, False, float(self.now)
            )
        self.line = [
            replace(job, first_at=float(self.now)) if job.id in plan.firsts else job
            for job in self.line
            if job.id not in plan.starts
        ]
        assert not lacking(summed((self.jobs[name].demand.needs, 1) for name in self.running), TOTAL)
        for project, quota in self.rules.quotas.items():
            held = summed((job.held, 1) for job in self.running.values() if job.project == project)
            assert not lacking({name: amount for name, amount in held.items() if name in quota}, quota)
        return plan

    def check(self, plan: Plan, before: list[Holding]) -> None:
        names = [job.id for job in self.line]
        # Nobody is lost, and nobody is in two places.
        assert sorted([*plan.starts, *plan.waits]) == sorted(names)
        assert not plan.refused
        assert len(set(names) | set(self.running) | set(self.done)) == len(self.jobs)
        self._check_order(plan)
        self._check_preemption(plan, before)

    def _check_order(self, plan: Plan) -> None:
        line = sorted(self.line, key=lambda job: (-job.priority, job.id))
        for number, job in enumerate(line):
            for later in line[number + 1 :] if job.id in plan.waits else ():
                alike = (later.demand, later.project) == (job.demand, job.project)
                assert not (alike and later.id in plan.starts), "one passed another that asks for the same"

    def _check_preemption(self, plan: Plan, before: list[Holding]) -> None:
        victims = {victim for victim, _ in plan.preempts}
        known = {job.id: job for job in before}
        for victim, other in plan.preempts:
            held = known[victim]
            assert held.preemptible
            assert not held.leaving
            assert held.priority < self.jobs[other].priority
        if victims:
            (favoured,) = {other for _, other in plan.preempts}
            needs = self.jobs[favoured].demand.needs
            staying = [job for job in before if not job.leaving and job.id not in victims]
            staying += [self.held(name) for name in plan.starts]

            def fits(jobs: list[Holding]) -> bool:
                held = summed((job.held, 1) for job in jobs)
                return not lacking(needs, {name: amount - held.get(name, 0.0) for name, amount in TOTAL.items()})

            assert fits(staying)
            for victim in victims:
                assert not fits([*staying, known[victim]]), "one of them needn't have gone"

    def held(self, name: str) -> Holding:
        coming = self.jobs[name]
        return Holding(name, coming.project, coming.priority, self.room.held_by(coming.demand), False, False, 0.0)


def fits_somewhere(coming: Comes, rules: Rules) -> bool:
    quota = rules.quotas.get(coming.project, {})
    held = ROOM.held_by(coming.demand)
    within = not lacking({name: amount for name, amount in held.items() if name in quota}, quota)
    return within and ROOM.too_small_for(coming.demand) is None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(comes(), max_size=14),
    st.sampled_from([{}, QUOTAS]),
    st.sampled_from([0, PASSING, 1000]),
)
def test_nothing_is_exceeded_lost_doubled_or_out_of_order_and_all_come_to_an_end(
    arrivals: list[Comes], quotas: dict[str, dict[str, float]], passing: int
) -> None:
    rules = replace(RULES, quotas=quotas, passing_s=float(passing))
    world = World(rules)
    arrivals = [coming for coming in arrivals if fits_somewhere(coming, rules)]
    # After the last arrival somebody works or starts in each turn, or is on its way to step aside.
    bound = 20 + sum(coming.seconds + 2 * coming.saves + 2 for coming in arrivals) * 3
    for now in range(bound):
        for coming in arrivals:
            if coming.at == now:
                world.submit(coming)
        world.turn()
        if now > 12 and not world.line and not world.running:
            break
    assert sorted(world.done) == sorted(world.jobs)


WIDE = comes(at=0, priority=0, each=(2.0, 0.0), least=2, project="c")  # the whole cluster
OF_QUOTA = comes(at=0, priority=0, each=(2.0, 0.0), least=1, most=1, project="a")  # all of a quota
SMALL = {"priority": 0, "each": (1.0, 0.0), "least": 1, "most": 1}
ANY = comes(at=0, priority=0)


def lines(large: st.SearchStrategy[Comes], stream: st.SearchStrategy[Comes]) -> st.SearchStrategy[Any]:
    return st.tuples(st.lists(large, min_size=1, max_size=4), st.lists(stream, min_size=6, max_size=12))


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        lines(WIDE, comes(**SMALL)),
        lines(OF_QUOTA, comes(**SMALL, project="a")),
        lines(st.one_of(WIDE, OF_QUOTA, ANY), st.one_of(comes(**SMALL), ANY)),
    ),
    st.sampled_from([{}, QUOTAS]),
)
def test_nobody_starves_however_many_come_later(
    jobs: tuple[list[Comes], list[Comes]], quotas: dict[str, dict[str, float]]
) -> None:
    """Two later ones come in each turn, for ever: those that were there start within a bound that doesn't know them."""
    large, stream = jobs
    rules = replace(RULES, quotas=quotas, passing_s=float(PASSING))
    large = [coming for coming in large if fits_somewhere(coming, rules)]
    stream = [coming for coming in stream if fits_somewhere(coming, rules)]
    world = World(rules)
    for number in range(3):
        for coming in stream[number : number + 1]:
            world.submit(coming)  # they run when the others come
        world.turn()
    patient = [world.submit(coming) for coming in large]
    # Each may have to be the first twice, for its quota and for the cluster: it is passed for so long, and then those
    # that run must end.
    bound = (len(world.jobs) + 1) * 2 * (PASSING + LONGEST + 2)
    for number in range(bound):
        for place in range(2):
            if stream:
                world.submit(stream[(2 * number + place) % len(stream)])
        world.turn()
        if not {job.id for job in world.line} & set(patient):
            return
    raise AssertionError(f"{[job.id for job in world.line if job.id in patient]} never started")


@settings(max_examples=300, deadline=None)
@given(st.lists(comes(at=0, saves=0), min_size=2, max_size=10), st.integers(0, 3))
def test_what_is_kept_for_the_first_in_line_nobody_takes(arrivals: list[Comes], running: int) -> None:
    rules = replace(RULES, passing_s=0.0)
    fitting = [coming for coming in arrivals if fits_somewhere(coming, rules)]
    world = World(rules)
    for coming in fitting[:running]:
        world.submit(coming)
        world.turn()
    for coming in fitting[running:]:
        world.submit(coming)
    world.turn()  # who is first has been seen
    before = list(world.running.values())
    plan = schedule(world.line, before, ROOM, rules, float(world.now + 1))
    line = sorted(world.line, key=lambda job: (-job.priority, job.id))
    first = next((job for job in line if job.id in plan.waits), None)
    if first is None or first.first_at is None:
        return
    behind = [job for job in line[line.index(first) + 1 :] if job.id in plan.starts]
    ahead = [job for job in line[: line.index(first)] if job.id in plan.starts]
    held = summed([*((job.held, 1) for job in before), *((world.held(job.id).held, 1) for job in ahead)])
    taken = summed((world.held(job.id).held, 1) for job in behind)
    for name, amount in first.demand.needs.items():
        free = TOTAL[name] - held.get(name, 0.0)
        assert free - taken.get(name, 0.0) >= min(max(free, 0.0), amount) - 1e-6 or not taken.get(name)
