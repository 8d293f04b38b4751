"""Carries out what `pipeline.decide` says, and tells how pipelines stand."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import MANIFEST
from tandem.config.files import write_whole
from tandem.errors import DatabaseError
from tandem.orchestrator.actions import Change
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job, Submitter, iso
from tandem.orchestrator.lease import LeaseLostError
from tandem.orchestrator.pipeline import (
    Begin,
    Known,
    StepAction,
    StopStep,
    begun_by,
    decide,
    filled_in,
    ready,
    step_state,
)
from tandem.orchestrator.pipeline_records import PipelineRecords, StepJob
from tandem.orchestrator.preflight import changed_at
from tandem.orchestrator.records import Records
from tandem.orchestrator.runtime import JobSecrets, runtime_of
from tandem.orchestrator.states import State
from tandem.orchestrator.troubles import Troubles

logger = logging.getLogger(__name__)


class Pipelines:
    """The hands for pipelines: one `turn` of the control loop takes each as far as it can go.

    Args:
        records: The job records.
        storage: The cluster's storage folder.
        secrets: Values that a pipeline's submitter sent for its steps.
        clock: Seconds since the epoch.
    """

    def __init__(self, records: Records, storage: Path, secrets: JobSecrets, clock: Callable[[], float]) -> None:
        self._records = records
        self._steps = PipelineRecords(records, clock)
        self._storage = storage
        self._secrets = secrets
        self._clock = clock
        self._told: dict[str, int] = {}
        self._troubles = Troubles()

    def turn(self, live: Sequence[Job]) -> dict[str, str]:
        """Look at each pipeline, decide, act, until there is nothing to do but wait.

        Args:
            live: Those that hadn't ended.

        Returns:
            By id, how far each is that goes on.
        """
        self._troubles.turn()
        begun = self._steps.steps([pipeline.id for pipeline in live])
        waits: dict[str, str] = {}
        for pipeline in live:
            # A stop ends what pipelines have begun, and no other one goes on with.
            others = [other for other in live if other.id != pipeline.id and not other.stop_requested]
            kept = {each.job.id for other in others for each in begun[other.id].values()}
            kept |= {each.job.id for each in begun[pipeline.id].values() if each.by_hand}
            try:
                waits |= self._advance(pipeline, begun[pipeline.id], kept)
            except (DatabaseError, LeaseLostError):
                # What can't be written down isn't done.
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others go on
                self._troubles.note(pipeline.id, error, "it is tried again")
        return waits | self._troubles.now

    def _advance(self, pipeline: Job, begun: Mapping[str, StepJob], kept: Collection[str]) -> dict[str, str]:
        # Each look gives a step its job or changes a state, and of both there are only so many.
        for _ in range(2 * len(pipeline.spec["steps"]) + 3):
            jobs = {name: each.job for name, each in begun.items()}
            known = {name: self._known(spec) for name, spec in ready(pipeline, jobs).items()}
            actions = decide(pipeline, jobs, known, kept)
            if not actions:
                break
            for action in actions:
                self._do(action, pipeline, jobs)
            pipeline, begun = self._records.get(pipeline.id), self._begun(pipeline)
        self._tell_progress(pipeline, begun)
        return {} if pipeline.state.final else {pipeline.id: _how_far(pipeline, begun)}

    def _tell_progress(self, pipeline: Job, begun: Mapping[str, StepJob]) -> None:
        """How many steps are done, as a job tells its progress."""
        done = sum(each.job.state is State.SUCCEEDED for each in begun.values())
        if self._told.get(pipeline.id) != done:
            said = {"phase": "steps", "done": done, "total": len(pipeline.spec["steps"]), "figures": {},
                    "time": self._clock()}  # fmt: skip
            _write(self._storage / "jobs" / pipeline.id / "progress.json", said)
            self._told[pipeline.id] = done
        if pipeline.state.final:
            self._told.pop(pipeline.id)

    def _do(self, action: StepAction, pipeline: Job, jobs: Mapping[str, Job]) -> None:
        match action:
            case Begin(step):
                self._steps.begin(
                    pipeline.id, action, judged=pipeline.judged, by=self._submitter(pipeline, action.spec)
                )
                logger.info("%s: step %s begins", pipeline.id, step)
            case StopStep(_, job_id):
                self._steps.stop(job_id)
            case Change(_, state, reason, message):
                self._file(pipeline, jobs, state)
                self._records.change(pipeline.id, state, reason, message)
                if state.final:
                    self._secrets.forget(pipeline.id)
                logger.info("%s: %s (%s) %s", pipeline.id, state, reason, message)

    def _submitter(self, pipeline: Job, spec: Mapping[str, Any]) -> Submitter:
        """Whoever submitted a pipeline submits its steps, with those of the values sent for it that a step names."""
        names = runtime_of(spec).secret_names
        values = {name: value for name, value in self._secrets.of(pipeline.id).items() if name in names}
        return Submitter(pipeline.user, pipeline.origin, before=lambda job_id: self._secrets.keep(job_id, values))

    def requeue(self, pipeline: Job) -> None:
        """Have the jobs of its steps that still wait queued as the pipeline now says."""
        for name, begun in self._steps.steps([pipeline.id])[pipeline.id].items():
            if not begun.job.state.final:
                queue = pipeline.spec["steps"][name]["spec"]["queue"]
                spec = {**begun.job.spec, "queue": queue}
                self._records.submit(begun.job.kind, begun.job.name, spec, by=self._submitter(pipeline, spec))

    def plan(self, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What would become of each step if a pipeline were submitted now; nothing is changed.

        Args:
            spec: Canonical.

        Returns:
            By step, in the order of the spec: step, kind, needs, does, job.
        """
        steps = spec["steps"]
        done: dict[str, Job] = {}
        found: dict[str, tuple[str, str | None]] = {}
        for name in TopologicalSorter({name: step["needs"] for name, step in steps.items()}).static_order():
            known = None
            if all(need in done for need in steps[name]["needs"]):
                filled = filled_in(steps[name], done)
                known = self._known(filled)
                begin = begun_by(name, filled, known, [done[need] for need in steps[name]["needs"]])
            if known is None or known.latest is None or (begin is not None and begin.anew):
                found[name] = "runs", None
            elif begin is None:
                found[name] = f"runs once {known.latest.id} has ended", None
            elif known.latest.state.final:
                found[name] = "is done", known.latest.id
                done[name] = known.latest
            else:
                found[name] = f"is {known.latest.state}", known.latest.id
        return [
            {"step": name, "kind": step["spec"]["kind"], "needs": step["needs"], "does": found[name][0],
             "job": found[name][1]}
            for name, step in steps.items()
        ]  # fmt: skip

    def describe(self, pipeline: Job, waits: Callable[[str], str | None] = lambda _: None) -> list[dict[str, Any]]:
        """Its steps in the order of the spec: what each needs and how it stands, and of its job what a graph shows.

        Args:
            pipeline: Its record.
            waits: Says of a job by its id why it waits.
        """
        begun = self._begun(pipeline)
        jobs = {name: each.job for name, each in begun.items()}
        return [
            {
                "step": name,
                "kind": step["spec"]["kind"],
                "needs": step["needs"],
                "state": step_state(name, pipeline, jobs),
                **_of_job(begun.get(name)),
                "waits": waits(jobs[name].id) if name in jobs else None,
            }
            for name, step in pipeline.spec["steps"].items()
        ]

    def _known(self, spec: Mapping[str, Any]) -> Known:
        latest = self._steps.latest(spec)
        if latest is None or latest.state in (State.QUEUED, State.FAILED, State.STOPPED):
            # What it has used or made doesn't matter.
            return Known(latest, intact=False, inputs_at=None)
        done = latest.state is State.SUCCEEDED
        return Known(latest, intact=done and self._intact(latest), inputs_at=changed_at(spec))

    def _intact(self, job: Job) -> bool:
        """Whether what a job made is still there, and a collection still as that job left it."""
        files = JobFiles(self._storage / "jobs" / job.id)
        files.check()
        if job.kind == "promote":
            # Whatever became of the endpoint since somebody wanted so: it isn't promoted again by itself.
            return files.result() is not None
        if not (self._storage / "artifacts" / job.name / job.id / MANIFEST).exists():
            return False
        if job.kind != "index":
            return True
        done = self._records.find(kind="index", states=[State.SUCCEEDED])
        same = [each for each in done if _collection(each) == _collection(job)]
        return not same or max(same, key=lambda each: each.ended_at or 0.0).id == job.id

    def _file(self, pipeline: Job, steps: Mapping[str, Job], state: State) -> None:
        """What lies in a pipeline's folder: first what was asked for, at the end which job made what."""
        folder = self._storage / "jobs" / pipeline.id
        if state is State.RUNNING:
            _write(folder / "spec.json", pipeline.spec)
        if state is State.SUCCEEDED:
            results = {name: {"job": job.id, **(JobFiles(self._storage / "jobs" / job.id).result() or {})}
                       for name, job in steps.items()}  # fmt: skip
            _write(folder / "result.json", {"steps": results})

    def _begun(self, pipeline: Job) -> dict[str, StepJob]:
        return self._steps.steps([pipeline.id])[pipeline.id]


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def _how_far(pipeline: Job, begun: Mapping[str, StepJob]) -> str:
    done = [name for name, each in begun.items() if each.job.state is State.SUCCEEDED]
    others = [f"{name} {each.job.state}" for name, each in begun.items() if name not in done]
    return "; ".join([f"{len(done)} of {len(pipeline.spec['steps'])} steps done", *others])


def _collection(job: Job) -> str:
    return str(job.spec.get("collection") or job.name)


def _of_job(begun: StepJob | None) -> dict[str, Any]:
    job = None if begun is None else begun.job
    return {
        "job": None if job is None else job.id,
        "reused": begun is not None and begun.reused,
        "reason": None if job is None else str(job.reason),
        "message": "" if job is None else job.message,
        "created_at": None if job is None else iso(job.created_at),
        "started_at": None if job is None else iso(job.started_at),
        "ended_at": None if job is None else iso(job.ended_at),
    }
