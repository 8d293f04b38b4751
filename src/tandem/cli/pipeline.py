"""Pipelines at the keyboard: the graph with its times, the logs of the steps, what would run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

from tandem.cli.output import is_terminal, note, print_table
from tandem.errors import InputError, NotFoundError
from tandem.orchestrator.states import FINAL

if TYPE_CHECKING:
    from tandem.cli.client import Client

POLL_S = 0.5
BAR_WIDTH = 24
Pause = Callable[[float], None]
Step = Mapping[str, Any]


def tree(steps: Sequence[Step]) -> Iterator[tuple[str, Step]]:
    """The graph as a tree: each step under the last of those that it needs, with the lines that lead to it.

    Args:
        steps: ``step`` and ``needs`` of each.
    """
    depth: dict[str, int] = {}
    by_name = {step["step"]: step for step in steps}

    def deep(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((deep(need) for need in by_name[name]["needs"]), default=0)
        return depth[name]

    under: dict[str | None, list[Step]] = {}
    for step in steps:
        parent = max(step["needs"], key=deep) if step["needs"] else None
        under.setdefault(parent, []).append(step)

    def below(parent: str | None, lead: str) -> Iterator[tuple[str, Step]]:
        children = under.get(parent, [])
        for number, step in enumerate(children, 1):
            last = number == len(children)
            mark = "" if parent is None else "└─ " if last else "├─ "
            yield lead + mark, step
            yield from below(step["step"], lead + ("" if parent is None else "   " if last else "│  "))

    yield from below(None, "")


def print_graph(steps: Sequence[Step], *, now: float | None = None) -> None:
    """A pipeline's steps with states and times: a tree with bars for a person, a line for each step in a pipe.

    Args:
        steps: As the server describes them.
        now: Seconds since the epoch; default: by this machine's clock.
    """
    at = time.time() if now is None else now
    if not is_terminal():
        rows = [[step["step"], step["state"], ",".join(step["needs"]), step["job"], step["created_at"],
                 step["started_at"], step["ended_at"], _took(step, at), _remark(step)] for step in steps]  # fmt: skip
        print_table([""] * 9, rows)
        return
    begins = [_seconds(step["created_at"]) for step in steps if step["job"] and not step["reused"]]
    first = min(begins, default=at)
    last = max([_seconds(step["ended_at"]) or at for step in steps if step["job"] and not step["reused"]], default=at)
    print_table(
        ["step", "state", "began", "took", "", "job", ""],
        [
            [
                lead + step["step"],
                step["state"],
                _clock(step["started_at"]),
                spoken(took) if (took := _took(step, at)) is not None else "",
                _bar(step, first, last, at),
                step["job"],
                _remark(step),
            ]
            for lead, step in tree(steps)
        ],
        title="steps",
    )


def print_plan(steps: Sequence[Step]) -> None:
    """What would become of each step: its job run, or that of another taken."""
    rows = [[(lead if is_terminal() else "") + step["step"], step["kind"], ", ".join(step["needs"]), step["does"],
             step["job"]] for lead, step in tree(steps)]  # fmt: skip
    print_table(["step", "kind", "needs", "", "job"], rows, title="steps")


def ids_of(job: Mapping[str, Any]) -> set[str]:
    """The ids of a pipeline and of the jobs of its steps.

    Raises:
        InputError: It is no pipeline.
    """
    return {str(job["id"]), *(str(step["job"]) for step in _steps(job) if step["job"])}


def job_of_step(job: Mapping[str, Any], name: str) -> str:
    """The id of the job that does a step's work.

    Raises:
        InputError: The job is no pipeline.
        NotFoundError: It has no such step, or the step hasn't begun.
    """
    steps = {step["step"]: step for step in _steps(job)}
    if name not in steps:
        raise NotFoundError(f"{job['id']} has no step {name!r}", remedy=f"its steps: {', '.join(steps)}")
    if steps[name]["job"] is None:
        raise NotFoundError(f"step {name!r} of {job['id']} hasn't begun: it is {steps[name]['state']}")
    return str(steps[name]["job"])


def print_step_logs(
    client: Client, pipeline_id: str, *, until_end: bool, to: TextIO | None = None, pause: Pause = time.sleep
) -> dict[str, Any]:
    """Print the logs of a pipeline's steps, each line behind its step's name.

    Args:
        client: Of the server.
        pipeline_id: Which.
        until_end: As they grow, until the pipeline has ended; of steps that had been done before it says so instead.
        to: Where to print; None: stdout.
        pause: Waits between looks; seconds.

    Returns:
        The pipeline as it stands afterwards.
    """
    client = client.patient() if until_end else client
    said: dict[str, str] = {}
    offsets: dict[str, int] = {}
    while True:
        # Asked before the logs are read: what was printed before the end isn't missed.
        pipeline = client.job(pipeline_id)
        for step in pipeline["steps"]:
            name, job_id = step["step"], step["job"]
            state = f"{step['state']} ({job_id})" if job_id else step["state"]
            if until_end and step["reused"]:
                state = f"done before as {job_id}"
            elif job_id:
                over = not until_end or step["state"] in FINAL
                offsets[job_id] = _print_lines(client, job_id, offsets.get(job_id, 0), name, to, whole=over)
            if until_end and said.get(name) != state and step["state"] != "WAITING":
                note(f"{name}: {state}")
            said[name] = state
        if not until_end or pipeline["state"] in FINAL:
            return pipeline
        pause(POLL_S)


def follow_pipeline(client: Client, pipeline_id: str, *, pause: Pause = time.sleep) -> dict[str, Any]:
    """Watch a pipeline to its end: a bar for each step, in a pipe the steps' own lines on stderr.

    Returns:
        The pipeline as it stands then.
    """
    if not is_terminal():
        return print_step_logs(client, pipeline_id, until_end=True, to=sys.stderr, pause=pause)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from tandem.cli.follow import progress_text

    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"),
               TimeElapsedColumn())  # fmt: skip
    client = client.patient()
    with Progress(*columns) as progress:
        tasks: dict[str, Any] = {}
        while True:
            pipeline = client.job(pipeline_id)
            for lead, step in tree(pipeline["steps"]):
                name, state = step["step"], step["state"]
                task = tasks.get(name)
                if task is None:
                    task = tasks[name] = progress.add_task(lead + name, total=None, start=False, state=state)
                if state not in ("WAITING", "SKIPPED") and not step["reused"]:
                    progress.start_task(task)
                seen = client.progress(step["job"]) if state == "RUNNING" else None
                if seen is not None:
                    progress.update(task, total=seen["total"], completed=seen["done"], state=progress_text(seen))
                elif state in FINAL:
                    done = 1.0 if state == "SUCCEEDED" else 0.0
                    shown = "done before" if step["reused"] else state
                    progress.update(task, total=1.0, completed=done, state=shown)
                    progress.stop_task(task)
                else:
                    progress.update(task, state=state)
            if pipeline["state"] in FINAL:
                return pipeline
            pause(POLL_S)


def spoken(seconds: float) -> str:
    """A duration as people say it: ``40 s``, ``3 min 5 s``, ``2 h 4 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _steps(job: Mapping[str, Any]) -> list[Step]:
    if job["kind"] != "pipeline":
        raise InputError(f"{job['id']} is a job of kind {job['kind']}, and has no steps")
    steps: list[Step] = job["steps"]
    return steps


def _print_lines(client: Client, job_id: str, offset: int, name: str, to: TextIO | None, *, whole: bool) -> int:
    """Print a job's new lines behind a name, the last one only once it has ended, or if `whole`.

    Returns:
        The offset of what comes next.
    """
    text = ""
    position = offset
    while True:
        more, after = client.logs(job_id, position)
        if after == position:
            break
        text, position = text + more, after
    kept = 0 if whole or text.endswith("\n") else len(text.rpartition("\n")[2].encode())
    lines = text.splitlines() if not kept else text.rpartition("\n")[0].splitlines()
    for line in lines:
        print(f"{name} | {line}", file=to, flush=True)
    return position - kept


def _remark(step: Step) -> str:
    if step["reused"]:
        return "done before"
    if step["waits"] or step["message"]:
        return str(step["waits"] or step["message"])
    return f"needs {', '.join(step['needs'])}" if step["needs"] and step["state"] == "WAITING" else ""


def _took(step: Step, now: float) -> float | None:
    """Seconds from a job's start to its end, or until now."""
    if step["job"] is None or (step["started_at"] is None and step["ended_at"] is None):
        return None
    begun = _seconds(step["started_at"] or step["created_at"])
    return max(0.0, (_seconds(step["ended_at"]) if step["ended_at"] else now) - begun)


def _bar(step: Step, first: float, last: float, now: float) -> str:
    """When a step ran, between the pipeline's first job and its last; what it waited for stands before it in dots."""
    if step["job"] is None or step["reused"] or last <= first:
        return ""
    ended = _seconds(step["ended_at"]) if step["ended_at"] else now
    # A job that ended before anybody saw it run has no start.
    begun = _seconds(step["started_at"]) if step["started_at"] else ended
    came, began, end = (
        round((at - first) / (last - first) * BAR_WIDTH) for at in (_seconds(step["created_at"]), begun, ended)
    )
    ran = max(1, end - began) if step["started_at"] else 0
    return " " * came + "·" * (began - came) + "━" * ran


def _clock(text: str | None) -> str:
    return "" if text is None else datetime.fromtimestamp(_seconds(text)).strftime("%H:%M:%S")


def _seconds(text: str | None) -> float:
    return 0.0 if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
