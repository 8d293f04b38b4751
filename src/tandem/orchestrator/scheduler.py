"""Who starts, who must step aside, and why the others wait: pure functions of the line, the cluster, and the time.

The line goes by priority, then by age. For the first `Rules.passing_s` that a job is the first in line for which there
is no room, smaller ones may pass it; from then on what it needs is kept for it as it becomes free, and others get what
it doesn't need. How long jobs run isn't known: this bounds the wait by the jobs that run when the time is up, whatever
comes later with no higher priority. A quota is a small cluster of its own, with a line and a first in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tandem.orchestrator.quotas import Quota
from tandem.orchestrator.resources import Amounts, Demand, Room, lacking, minus, says, says_short, summed

ANY_PROJECT = "*"


@dataclass(frozen=True)
class Rules:
    """What the cluster file says of the queue, and what `tandem up` adds for a local cluster.

    Attributes:
        quotas: By project, what its jobs may hold together; ``*`` for each that isn't named.
        reserved: Kept from all jobs.
        passing_s: Seconds for which the first in line may be passed.
        grace_s: Seconds for a checkpoint before a job that must step aside is ended.
        shared_cpus: Logical CPUs that jobs may hold together, unless one runs alone; None: all.
    """

    quotas: Mapping[str, Amounts]
    reserved: Amounts
    passing_s: float
    grace_s: float
    shared_cpus: float | None

    def quota(self, project: str) -> Amounts | None:
        """What a project's jobs may hold together; None where nothing is said."""
        return self.quotas.get(project, self.quotas.get(ANY_PROJECT))


@dataclass(frozen=True)
class Waiting:
    """A job that waits.

    Attributes:
        id: The job's.
        project: Whose quota it counts against.
        priority: The higher goes first.
        demand: What it asks for.
        attempt: Its next one, from 1.
        judged: Whether it was found to fit when it was submitted.
        not_before: When its next attempt may start.
        first_at: Since when it was the first in its line at least once; None if it never was.
    """

    id: str
    project: str
    priority: int
    demand: Demand
    attempt: int
    judged: bool
    not_before: float
    first_at: float | None


@dataclass(frozen=True)
class Holding:
    """A job that holds resources.

    Attributes:
        id: The job's.
        project: Whose quota it counts against.
        priority: As for `Waiting`.
        held: What it may come to hold.
        preemptible: Whether it may be asked to step aside.
        leaving: Whether its end was asked for already.
        started_at: When its attempt began.
    """

    id: str
    project: str
    priority: int
    held: Amounts
    preemptible: bool
    leaving: bool
    started_at: float


@dataclass
class Plan:
    """What is to be done with those who wait.

    Attributes:
        starts: Jobs to start, in this order.
        preempts: Jobs that are to step aside, each with the one for which it makes room.
        firsts: Jobs that are the first in their line for the first time.
        refused: Jobs for which the cluster or a quota is too small, with the reason.
        waits: For every other job that waits, why.
    """

    starts: list[str] = field(default_factory=list)
    preempts: list[tuple[str, str]] = field(default_factory=list)
    firsts: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    waits: dict[str, str] = field(default_factory=dict)


def schedule(line: Sequence[Waiting], holding: Sequence[Holding], room: Room, rules: Rules, now: float) -> Plan:
    """One look at those who wait.

    Args:
        line: In the order of their submission.
        holding: Whoever holds resources.
        room: What the cluster has.
        rules: What the cluster file says.
        now: Seconds since the epoch.
    """
    turn = _Turn(list(holding), room, rules, now)
    for job in sorted(line, key=lambda job: -job.priority):
        turn.look_at(job)
    return turn.plan


def too_large(asked: Demand, project: str, room: Room, rules: Rules) -> str | None:
    """Why a job can't start, however empty the cluster is; None where it could."""
    quota = rules.quota(project)
    if quota is not None:
        over = [name for name, amount in room.held_by(asked).items() if name in quota and amount > quota[name]]
        if over:
            return f"needs {says(asked.holds, over)}, the quota of project {project} is {says(quota, over)}"
    return room.too_small_for(asked)


class _Turn:
    """The books of one look: what is free, what is left of each quota, and what is kept for whom."""

    def __init__(self, holding: list[Holding], room: Room, rules: Rules, now: float) -> None:
        self.plan = Plan()
        self._holding = holding
        self._room = room
        self._rules = rules
        self._now = now
        self._place = 0
        self._first: Waiting | None = None
        self._kept: Amounts = {}
        self._quotas: dict[str, Quota] = {}
        self._told: dict[tuple[Any, ...], str] = {}
        self._count()

    def look_at(self, job: Waiting) -> None:
        """Start a job, or say why it waits; those before it in line were looked at already."""
        if job.not_before > self._now:
            seconds = max(1, round(job.not_before - self._now))
            self.plan.waits[job.id] = f"waits for {seconds} s more before attempt {job.attempt}"
            return
        holds = self._room.held_by(job.demand)
        quota = self._quota(job.project)
        short = lacking({name: amount for name, amount in holds.items() if name in quota.limit}, quota.left)
        # Whoever passes one for which room is kept mustn't grow into it.
        needs = holds if self._kept else job.demand.needs
        lacks = {} if short else lacking(needs, self._free)
        first = quota.first is None if short else self._first is None
        # What is too large stands in nobody's way; to find out takes long, so those further back aren't asked.
        if (first or not (short or lacks)) and self._is_too_large(job):
            return
        if not short and not lacks:
            self._start(job, holds)
            return
        self._place += 1
        if first and job.first_at is None:
            self.plan.firsts.append(job.id)
        if short:
            self._wait_for_quota(job, holds, short, quota)
        else:
            self._wait_for_room(job, needs, lacks)

    def _start(self, job: Waiting, holds: Amounts) -> None:
        self.plan.starts.append(job.id)
        # One that starts now isn't asked to step aside in the same turn.
        self._holding.append(Holding(job.id, job.project, job.priority, holds, False, False, self._now))
        self._quota(job.project).take(holds)
        self._count()

    def _wait_for_quota(self, job: Waiting, holds: Amounts, short: Amounts, quota: Quota) -> None:
        kept = None
        if quota.first is None:
            quota.first = job.id
            if self._waited(job):
                quota.left = minus(quota.left, holds)
        elif not lacking({name: holds[name] for name in short}, quota.unheld):
            kept = quota.first

        def told() -> str:
            held = ", ".join(f"{quota.limit[n] - quota.unheld[n]:g} of {says(quota.limit, [n])} held" for n in short)
            why = f"what is left is kept for {kept}" if kept else held
            return f"needs {says(holds, short)}, over the quota of project {job.project} ({why})"

        why = self._once(told, job.project, kept, *holds.items(), *short, *quota.unheld.items())
        self.plan.waits[job.id] = f"{why}; {self._in_line()}"

    def _wait_for_room(self, job: Waiting, needs: Amounts, lacks: Amounts) -> None:
        short = self._once(lambda: f"needs {says_short(needs, lacks)}", *needs.items(), *lacks.items())
        why = f"{short}; {self._in_line()}"
        if self._first is None:
            self._first = job
            victims, comes_free = self._make_room(job)
            self.plan.preempts += [(victim.id, job.id) for victim in victims]
            if comes_free:
                leaving = victims or [other for other in self._holding if other.leaving]
                why += f"; {', '.join(other.id for other in leaving)} must end first, and was asked to"
            if comes_free or self._waited(job):
                self._kept = job.demand.needs
                self._count()
        elif self._kept and not lacking(needs, self._unkept):
            why = f"needs {says(needs, lacks)}, what is free is kept for {self._first.id}; {self._in_line()}"
        self.plan.waits[job.id] = why

    def _make_room(self, job: Waiting) -> tuple[list[Holding], bool]:
        """Who must step aside so that a job can start, and whether it can once those who leave have left.

        As few as possible: the lowest priority first, of one priority the youngest. Nobody, if that weren't enough.
        """
        staying = [other for other in self._holding if not other.leaving]
        if self._fits_beside(job, staying):
            return [], True
        lower = [other for other in staying if other.preemptible and other.priority < job.priority]
        chosen: list[Holding] = []
        for victim in sorted(lower, key=lambda other: (other.priority, -other.started_at)):
            chosen.append(victim)
            if self._fits_beside(job, _without(staying, chosen)):
                break
        else:
            return [], False
        for victim in reversed(chosen):
            fewer = _without(chosen, [victim])
            if self._fits_beside(job, _without(staying, fewer)):
                chosen = fewer
        return chosen, True

    def _fits_beside(self, job: Waiting, others: Iterable[Holding]) -> bool:
        held = summed((other.held, 1) for other in others)
        return not lacking(job.demand.needs, minus(self._room.limit(held), held))

    def _is_too_large(self, job: Waiting) -> bool:
        why = too_large(job.demand, job.project, self._room, self._rules)
        if why is None:
            return False
        if not job.judged and self._room.settled(self._now):
            self.plan.refused[job.id] = why
        else:
            self.plan.waits[job.id] = f"{why}: it waits for that to change"
        return True

    def _quota(self, project: str) -> Quota:
        if project not in self._quotas:
            limit = self._rules.quota(project) or {}
            held = summed((other.held, 1) for other in self._holding if other.project == project)
            self._quotas[project] = Quota(limit, minus(limit, held))
        return self._quotas[project]

    def _count(self) -> None:
        """What is free for those who are still to be looked at, and what would be if nothing were kept."""
        held = summed((other.held, 1) for other in self._holding)
        self._unkept = minus(self._room.limit(held), held)
        self._free = minus(self._unkept, self._kept)

    def _once(self, tell: Callable[[], str], *of: Any) -> str:
        """A sentence that is the same for all of which it tells the same: most of a long line wait for one reason."""
        if of not in self._told:
            self._told[of] = tell()
        return self._told[of]

    def _waited(self, job: Waiting) -> bool:
        return job.first_at is not None and self._now - job.first_at >= self._rules.passing_s

    def _in_line(self) -> str:
        ending = {1: "st", 2: "nd", 3: "rd"}.get(self._place % 10, "th")
        return f"{self._place}{'th' if self._place % 100 in (11, 12, 13) else ending} in line"


def _without(jobs: Iterable[Holding], gone: Sequence[Holding]) -> list[Holding]:
    return [job for job in jobs if job not in gone]
