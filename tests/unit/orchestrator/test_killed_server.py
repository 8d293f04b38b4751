"""The server is killed at every place where it could have done half of something, and started again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from stand_ins.driven_ray import DrivenRay
from stand_ins.line import finetune
from stand_ins.world import World, make_cluster

from tandem.errors import TandemError
from tandem.orchestrator.database import Database
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.records import Records

TURNS = 60
LOOKS = frozenset({"machines", "observe", "logs"})
# Each commit waits for the disk: there are thousands.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Killed(BaseException):
    """Stands for the death of the server at that very place."""


class Killer:
    """Counts the places that the server comes by, and kills it at some of them.

    Of looks at Ray one after the other, with nothing done in between, the first stands for all.
    """

    def __init__(self, *at: int) -> None:
        self.at = set(at)
        self.count = 0
        self.last = ""

    def __call__(self, place: str) -> None:
        looks, self.last = {place, self.last} <= LOOKS, place
        if looks:
            return
        self.count += 1
        if self.count in self.at:
            raise Killed


@contextmanager
def killing(killer: Killer) -> Iterator[None]:
    """Before and after each commit, and each change of a job's folder; Ray's calls have hooks of their own."""
    write, around = Database.write, {name: getattr(JobFiles, name) for name in ("prepare", "retire", "append_log")}

    @contextmanager
    def killed_write(self: Database) -> Iterator[Session]:
        with write(self) as session:
            yield session
            session.flush()
            killer("before a commit")
        killer("after a commit")

    def killed(name: str) -> Callable[..., None]:
        def change(self: JobFiles, *arguments: Any) -> None:
            killer(f"before {name}")
            around[name](self, *arguments)
            killer(f"after {name}")

        return change

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "write", killed_write)
        for name in around:
            patch.setattr(JobFiles, name, killed(name))
        yield


class Drill:
    """Jobs, a Ray whose drivers work, and a server that somebody kills."""

    template: Path

    def __init__(self, folder: Path, killer: Killer, url: str | None = None) -> None:
        cluster = make_cluster(folder)
        if url is None:
            # Made once: to make the tables takes longer than all the rest.
            shutil.copy(self.template, folder / "tandem.db")
        cluster = replace(cluster, database_url=url or cluster.database_url)
        self.ray = DrivenRay(on_call=killer, folder=lambda job_id: folder / "jobs" / job_id)
        self.world = World(cluster, Records(cluster.database_url, clock=lambda: self.world.now), ray=self.ray)
        self.killer = killer

    def turn(self) -> None:
        self.killer.last = ""
        with killing(self.killer):
            try:
                self.world.orchestrator.step()
            except Killed:
                self.start()
        self.ray.tick()
        self.world.now += 2

    def start(self) -> None:
        """Until it is up: it may be killed while it starts, too."""
        while True:
            with suppress(Killed):
                self.world.restart()
                return

    def run(self, *also: Callable[[Drill], None]) -> Drill:
        quiet = 0
        for _ in range(TURNS):
            for do in also:
                do(self)
            self.turn()
            # A few turns more: what has ended stays so.
            quiet += all(job.state.final for job in self.world.records.find())
            if quiet > 3 and all(driver.over for driver in self.ray.drivers):
                break
        return self

    def close(self) -> None:
        self.world.records.close()

    def story(self, job: Job) -> list[str]:
        return [f"{event['state']} {event['reason']}" for event in self.world.records.events(job.id)]

    def log(self, job: Job) -> str:
        return self.world.orchestrator.files(job.id).read_log(0)[0].decode()


@pytest.fixture(scope="module", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> None:
    Drill.template = tmp_path_factory.mktemp("template") / "tandem.db"
    Records(f"sqlite:///{Drill.template}").close()


STARTED = ["QUEUED submitted", "STARTING admitted"]


def without_running(story: list[str]) -> list[str]:
    """A job that ran while nobody looked is never seen to."""
    return [change for change in story if not change.startswith("RUNNING")]


def retried(drill: Drill) -> None:
    """A driver is killed, the next attempt succeeds."""
    drill.ray.endings = {1: "FAILED -9"}
    job = drill.world.submit()
    drill.run()
    assert without_running(drill.story(job)) == [
        *STARTED, "RETRYING driver_died", "STARTING admitted", "SUCCEEDED done"
    ]  # fmt: skip
    assert drill.ray.begun == {f"{job.id}.1": 1, f"{job.id}.2": 1}
    reasons = [attempt["reason"] for attempt in drill.world.records.attempts(job.id)]
    assert reasons == ["driver_died", "done"]
    lines = [f"{job.id}.1 RUNNING", f"{job.id}.1 FAILED", f"{job.id}.2 RUNNING", f"{job.id}.2 SUCCEEDED"]
    assert drill.log(job).splitlines() == lines


def stopped(drill: Drill) -> None:
    """Somebody stops it as soon as it starts."""
    drill.ray.endings = {1: "RUNNING"}
    job = drill.world.submit()

    def stop(drill: Drill) -> None:
        if drill.world.state(job) in ("STARTING", "RUNNING"):
            drill.world.records.request_stop(job.id)

    drill.run(stop)
    assert without_running(drill.story(job)) == [*STARTED, "STOPPED stopped"]
    assert drill.ray.begun[f"{job.id}.1"] <= 1


def refused(drill: Drill) -> None:
    """Ray doesn't take it at all."""

    def refuse(*_: object) -> None:
        drill.killer("submit")
        raise TandemError("Ray refused the job: no")

    job = drill.world.submit()
    drill.ray.submit = refuse  # type: ignore[method-assign]
    drill.run()
    assert drill.story(job) == [*STARTED, "FAILED start_failed"]
    assert [attempt["reason"] for attempt in drill.world.records.attempts(job.id)] == ["start_failed"]


def preempted(drill: Drill) -> None:
    """It steps aside for another one, and goes on later."""
    drill.ray.endings = {1: "RUNNING"}
    spec = finetune(4, name="low", queue={"preemptible": True})
    low, _ = drill.world.records.submit("finetune", "low", spec)

    def higher(drill: Drill) -> None:
        asked = (drill.world.orchestrator.files(low.id).path / "step-aside").exists()
        for driver in drill.ray.drivers:
            # The one works on until it is asked to step aside, the other does what it has to.
            if not driver.submission_id.startswith(low.id):
                driver.ends = "SUCCEEDED"
            elif asked:
                driver.ends = "FAILED 1"
        if drill.world.state(low) == "RUNNING" and drill.world.records.get(low.id).attempt == 1:
            drill.world.records.submit("finetune", "high", finetune(4, name="high", queue={"priority": 5}))

    drill.run(higher)
    high = drill.world.records.get("high")
    assert drill.story(high)[-1] == "SUCCEEDED done"
    assert drill.story(low)[-1] == "SUCCEEDED done"
    reasons = [attempt["reason"] for attempt in drill.world.records.attempts(low.id)]
    assert reasons == ["preempted", "done"]
    assert drill.ray.begun == {f"{low.id}.1": 1, f"{low.id}.2": 1, f"{high.id}.1": 1}


def head_lost(drill: Drill) -> None:
    """The head is restarted and has forgotten the driver, which lives on for a while."""
    drill.ray.endings = {1: "RUNNING"}
    job = drill.world.submit()

    def forget(drill: Drill) -> None:
        if drill.ray.begun[f"{job.id}.1"] == 1 and not drill.ray.begun[f"{job.id}.2"]:
            drill.ray._seen.pop(f"{job.id}.1", None)

    drill.run(forget)
    assert without_running(drill.story(job)) == [*STARTED, "RETRYING head_lost", "STARTING admitted", "SUCCEEDED done"]
    assert drill.ray.begun == {f"{job.id}.1": 1, f"{job.id}.2": 1}
    assert all(driver.over for driver in drill.ray.drivers)


SCENES = [retried, stopped, refused, preempted, head_lost]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_killed_at_any_place_it_goes_on_as_if_it_had_not_been(scene: Callable[[Drill], None]) -> None:
    place = 0
    while True:
        killer = Killer(place)
        with tempfile.TemporaryDirectory(prefix="tdm-killed-", dir=FAST) as folder:
            drill = Drill(Path(folder), killer)
            try:
                scene(drill)
            except AssertionError as error:
                raise AssertionError(f"killed at place {place}") from error
            finally:
                drill.close()
        if place > killer.count:
            break
        place += 1
    assert place > 8


@given(at=st.lists(st.integers(1, 300), max_size=8), scene=st.sampled_from(SCENES))
@settings(max_examples=60, deadline=None)
def test_killed_again_and_again(at: list[int], scene: Callable[[Drill], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="tdm-killed-", dir=FAST) as folder:
        drill = Drill(Path(folder), Killer(*at))
        try:
            scene(drill)
        finally:
            drill.close()


def test_on_postgres_too(a_postgres: Any, tmp_path: Path) -> None:
    drill = Drill(tmp_path, Killer(*range(3, 300, 17)), a_postgres.database())
    try:
        retried(drill)
    finally:
        drill.close()
