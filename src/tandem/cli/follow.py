"""Following jobs to their end: bars on a terminal, the job's own lines in a pipe."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tandem.cli.output import is_terminal, note, print_table
from tandem.cli.pipeline import follow_pipeline
from tandem.errors import JobFailedError, NotFoundError, TandemError

if TYPE_CHECKING:
    from tandem.cli.client import Client

POLL_S = 0.5
Pause = Callable[[float], None]


def submit_and_follow(
    client: Client, spec: dict[str, Any], title: str, *, again: bool = False, pause: Pause = time.sleep
) -> dict[str, Any]:
    """Submit a job and watch it to its end; one that succeeded before is taken as it is.

    Args:
        client: Of the server.
        spec: A canonical job spec.
        title: What a person reads beside the bar.
        again: Run it anew although there is one of the same name and spec.
        pause: Waits between looks at a pipeline; seconds.

    Returns:
        The job's result.

    Raises:
        JobFailedError: It ended in FAILED or STOPPED.
    """
    from tandem.cli.submission import submit_job

    job = submit_job(client, spec, again=again)
    if not job["created"] and job["state"] in ("FAILED", "STOPPED"):
        # Whoever runs a whole story again wants its failed step tried again.
        note(f"{title}: {job['id']} had ended in {job['state']}; it is submitted again")
        job = submit_job(client, spec, again=True)
    elif not job["created"] and job["state"] == "SUCCEEDED":
        note(f"{title}: already done as {job['id']}")
        return client.result(job["id"])
    return follow(client, job["id"], title, pause=pause)


def follow(client: Client, job_id: str, title: str | None = None, *, pause: Pause = time.sleep) -> dict[str, Any]:
    """Watch a job to its end; a pipeline by looking at its steps again and again.

    Returns:
        Its result.

    Raises:
        JobFailedError: It ended in FAILED or STOPPED.
        KeyboardInterrupt: The watcher left; the job goes on.
    """
    with leaving(job_id):
        if client.job(job_id)["kind"] == "pipeline":
            job = follow_pipeline(client, job_id, pause=pause)
        else:
            job = (_bars if is_terminal() else _lines)(client, job_id, title)
    if job["state"] != "SUCCEEDED":
        raise failure(job)
    return client.patient().result(job_id)


@contextmanager
def leaving(job_id: str) -> Iterator[None]:
    """Tell whoever leaves with Ctrl-C that the job goes on, and how to come back."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"\n{job_id} goes on; come back with `tandem logs {job_id} -f`, end it with `tandem stop {job_id}`")
        raise


def failure(job: dict[str, Any]) -> JobFailedError:
    """The error that a job's bad end is for whoever waited for it."""
    why = f" ({job['reason']})" + (f": {job['message']}" if job.get("message") else "")
    return JobFailedError(f"{job['state']}{why}", where=job["id"], remedy=f"`tandem logs {job['id']}` shows its log")


def print_log(client: Client, job_id: str, *, until_end: bool, to: TextIO | None = None) -> dict[str, Any]:
    """Print a job's log (`to` stdout, if nothing else is said); with `until_end`, as it grows, until the job has ended.

    Returns:
        The job as it stands afterwards.
    """
    for event in client.events(job_id, for_s=None if until_end else 0):
        if event.kind == "log":
            print(event.data["text"], end="", file=to, flush=True)
        if event.kind == "end":
            return event.data
    return client.job(job_id)


def wait(client: Client, job_id: str, *, timeout_s: float | None = None) -> dict[str, Any]:
    """Wait for a job's end without printing anything.

    Raises:
        TandemError: It hadn't ended in time.
    """
    for event in client.events(job_id, logs=False, for_s=timeout_s):
        if event.kind == "end":
            return event.data
    job = client.job(job_id)
    raise TandemError(f"still {job['state']} after {timeout_s:g} s", where=job["id"], remedy="it goes on")


def wait_for_app(
    client: Client,
    name: str,
    *,
    timeout_s: float,
    before: float,
    remedy: str | None = None,
    pause: Pause = time.sleep,
) -> dict[str, Any]:
    """Wait until an application answers.

    Args:
        client: Of the server.
        name: The application's.
        timeout_s: Seconds to wait at most.
        before: `deployed_at` of the version before this one, 0 for none: what runs until then is the old one.
        remedy: What to do where it can't start; None: take it down.
        pause: Waits between looks; seconds.

    Raises:
        TandemError: It can't start, or hadn't started in time.
    """
    deadline = time.monotonic() + timeout_s
    said = ""
    while True:
        app = next((app for app in client.apps() if app["name"] == name), None)
        if app is not None and app["deployed_at"] > before:
            if app["verdict"] == "running":
                return app
            if app["verdict"] == "failed":
                raise TandemError(
                    f"the application didn't start: {app['message'] or app['state']}",
                    where=name,
                    remedy=f"Ray's dashboard has its logs; {remedy or f'`tandem undeploy {name}`'} ends the attempts",
                )
            line = f"{name}: {app['state']}" + (f" {app['replicas']}" if app["replicas"] else "")
            if line != said:
                note(line)
                said = line
        if time.monotonic() > deadline:
            raise TandemError(
                f"not running after {timeout_s:g} s: {(app or {}).get('message') or 'no message'}",
                where=name,
                remedy="`tandem status` shows how it stands; " + (remedy or "--timeout waits longer"),
            )
        pause(POLL_S)


def print_report(report: dict[str, Any]) -> None:
    """The figures of a comparison, arm by arm, and its verdict in a sentence."""
    from tandem.evaluation.report.tables import summary_header, summary_rows
    from tandem.evaluation.report.text import sureness, verdict_sentence

    print_table(summary_header(report), summary_rows(report), title=report.get("name"), heading=True)
    print(f"verdict: {verdict_sentence(report)}\n{sureness(report)}")


def read_report(result: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """The report.json of a finished comparison, and the folder that it lies in.

    Args:
        result: The job's result, which says where the report is.

    Raises:
        NotFoundError: The files are gone, or the job made no report.
    """
    # Of a pipeline, that of its comparison.
    made = [step for step in result.get("steps", {}).values() if "report" in step]
    if len(made) == 1:
        (result,) = made
    if len(made) > 1:
        raise NotFoundError(
            "this pipeline made several reports", remedy=f"ask for one: {', '.join(step['job'] for step in made)}"
        )
    if "report" not in result:
        raise NotFoundError("this job made no report", remedy="jobs of kind compare do")
    path = Path(result["report"])
    folder = path if path.is_dir() else path.parent
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except FileNotFoundError:
        raise NotFoundError("the report is gone", where=str(folder), remedy="submit the comparison --again") from None
    return report, folder


def _lines(client: Client, job_id: str, title: str | None) -> dict[str, Any]:
    if title:
        note(f"{title} ({job_id})")
    # What is followed is on its way to a result, and stdout is the result's.
    return print_log(client, job_id, until_end=True, to=sys.stderr)


def _bars(client: Client, job_id: str, title: str | None) -> dict[str, Any]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    job: dict[str, Any] = {}
    with Progress(*columns) as progress:
        task = progress.add_task(title or job_id, total=None, state="")
        for event in client.events(job_id, logs=False):
            if event.kind == "progress":
                seen = event.data
                progress.update(task, total=seen["total"], completed=seen["done"], state=progress_text(seen))
            elif event.kind == "state":
                progress.update(task, state=event.data["state"])
            else:
                job = event.data
                done = 1.0 if job["state"] == "SUCCEEDED" else 0.0
                progress.update(task, total=1.0, completed=done, state=job["state"])
    return job


def progress_text(seen: dict[str, Any]) -> str:
    """``phase done/total key=value`` of a job's progress."""
    total = "" if seen["total"] is None else f"/{seen['total']}"
    figures = [
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in seen["figures"].items()
    ]
    return " ".join([seen["phase"], f"{seen['done']}{total}", *figures])
