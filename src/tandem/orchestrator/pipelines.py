"""Carries out what `pipeline.decide` says, and tells how pipelines stand."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import MANIFEST
from tandem.config.files import write_whole
from tandem.orchestrator.actions import Change
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job, iso
from tandem.orchestrator.pipeline import Begin, Known, StepAction, StopStep, decide, ready, step_state
from tandem.orchestrator.pipeline_records import PipelineRecords, StepJob
from tandem.orchestrator.preflight import changed_at
from tandem.orchestrator.records import Records
from tandem.orchestrator.states import State

logger = logging.getLogger(__name__)


class Pipelines:
    """The hands for pipelines: one `turn` of the control loop takes each as far as it can go.

    Args:
        records: The job records.
        storage: The cluster's storage folder.
        clock: Seconds since the epoch.
    """

    def __init__(self, records: Records, storage: Path, clock: Callable[[], float]) -> None:
        self._records = records
        self._steps = PipelineRecords(records, clock)
        self._storage = storage

    def turn(self, live: Sequence[Job]) -> dict[str, str]:
        """Look at each pipeline, decide, act, until there is nothing to do but wait.

        Args:
            live: Those that hadn't ended.

        Returns:
            By id, how far each is that goes on.
        """
        begun = self._steps.steps([pipeline.id for pipeline in live])
        waits: dict[str, str] = {}
        for pipeline in live:
            # A stop ends what pipelines have begun, and no other one goes on with.
            others = [other for other in live if other.id != pipeline.id and not other.stop_requested]
            kept = {each.job.id for other in others for each in begun[other.id].values()}
            kept |= {each.job.id for each in begun[pipeline.id].values() if each.by_hand}
            try:
                waits |= self._advance(pipeline, begun[pipeline.id], kept)
            except OSError as error:
                waits[pipeline.id] = f"{error}: it is tried again"
                logger.warning("%s: %s", pipeline.id, error)
        return waits

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
        return {} if pipeline.state.final else {pipeline.id: _how_far(pipeline, begun)}

    def _do(self, action: StepAction, pipeline: Job, jobs: Mapping[str, Job]) -> None:
        match action:
            case Begin(step):
                self._steps.begin(pipeline.id, action, judged=pipeline.judged)
                logger.info("%s: step %s begins", pipeline.id, step)
            case StopStep(_, job_id):
                self._records.request_stop(job_id)
            case Change(_, state, reason, message):
                self._file(pipeline, jobs, state)
                self._records.change(pipeline.id, state, reason, message)
                logger.info("%s: %s (%s) %s", pipeline.id, state, reason, message)

    def requeue(self, pipeline: Job) -> None:
        """Have the jobs of its steps that still wait queued as the pipeline now says."""
        for name, begun in self._steps.steps([pipeline.id])[pipeline.id].items():
            if not begun.job.state.final:
                queue = pipeline.spec["steps"][name]["spec"]["queue"]
                self._records.submit(begun.job.kind, begun.job.name, {**begun.job.spec, "queue": queue})

    def progress(self, pipeline: Job) -> dict[str, Any]:
        """How many of its steps are done, as a job's progress is told."""
        done = [begun for begun in self._begun(pipeline).values() if begun.job.state is State.SUCCEEDED]
        return {"phase": "steps", "done": len(done), "total": len(pipeline.spec["steps"]), "figures": {}}

    def describe(self, pipeline: Job) -> list[dict[str, Any]]:
        """Its steps in the order of the spec: what each needs and how it stands, and of its job what a graph shows."""
        begun = self._begun(pipeline)
        jobs = {name: each.job for name, each in begun.items()}
        return [
            {
                "step": name,
                "kind": step["spec"]["kind"],
                "needs": step["needs"],
                "state": step_state(name, pipeline, jobs),
                **_of_job(begun.get(name)),
            }
            for name, step in pipeline.spec["steps"].items()
        ]

    def _known(self, spec: Mapping[str, Any]) -> Known:
        latest = self._steps.latest(spec)
        if latest is None:
            return Known(None, intact=False, inputs_at=None)
        return Known(latest, intact=self._intact(latest), inputs_at=changed_at(spec))

    def _intact(self, job: Job) -> bool:
        """Whether what a job made is still there, and a collection still as that job left it."""
        JobFiles(self._storage / "jobs" / job.id).check()
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
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "spec.json", pipeline.spec)
        if state is State.SUCCEEDED:
            results = {name: {"job": job.id, **(JobFiles(self._storage / "jobs" / job.id).result() or {})}
                       for name, job in steps.items()}  # fmt: skip
            _write(folder / "result.json", {"steps": results})

    def _begun(self, pipeline: Job) -> dict[str, StepJob]:
        return self._steps.steps([pipeline.id])[pipeline.id]


def _write(path: Path, data: Mapping[str, Any]) -> None:
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
