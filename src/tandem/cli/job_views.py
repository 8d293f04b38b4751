"""``tandem ps`` and ``show``: what is on record of jobs, for a person and for a program."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tandem.cli.output import is_terminal, make_table, note, print_json, print_table
from tandem.cli.spans import read_span
from tandem.cli.spec_commands import Json

JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id, or its name for the latest of that name.")]
PS_FIELDS = ("id", "name", "kind", "state", "reason", "project", "user", "created_at", "ended_at", "waits")
SHOWN = (
    *("id", "kind", "state", "waits", "reason", "message", "attempt", "project", "priority", "user"),
    *("created_at", "started_at", "ended_at", "dir", "mlflow"),
)
VERSIONS = ("tandem", "python", "ray", "torch")
WATCH_EVERY_S = 2.0


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (ps, show):
        app.command()(command)


def ps(
    state: Annotated[
        list[str] | None, typer.Option(help="Only jobs in this state; may be given several times.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of this name.")] = None,
    project: Annotated[str | None, typer.Option(help="Only jobs of this project.")] = None,
    user: Annotated[str | None, typer.Option(help="Only jobs that this user's key submitted.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only jobs submitted since: 30m, 12h, 7d, or 2026-11-30[T14:00].")
    ] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="ID", help="Only a pipeline and its steps' jobs.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the latest so many.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing how they stand, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """List jobs in the order of their submission, with why they wait."""
    from tandem.cli.client import Client
    from tandem.errors import InputError

    if watch and json:
        raise InputError("--watch and --json exclude each other", remedy="GET /api/v1/jobs/ID/events is for programs")
    client = Client.connect()
    filters = {
        "state": [word.upper() for word in state or []], "kind": kind, "name": name, "project": project, "user": user,
        "since": None if since is None else moment(since, datetime.now(UTC)),
    }  # fmt: skip

    def look() -> list[dict[str, Any]]:
        found = client.jobs(limit=limit if pipeline is None else None, **filters)
        if pipeline is not None:
            from tandem.cli.pipeline import ids_of

            ids = ids_of(client.job(pipeline))
            found = [job for job in found if job["id"] in ids][-(limit or 0) :]
        return [{field: job[field] for field in PS_FIELDS} for job in found]

    if json:
        print_json(look())
    elif watch:
        watch_jobs(look)
    else:
        print_table(PS_FIELDS, [list(job.values()) for job in look()])


def watch_jobs(look: Callable[[], list[dict[str, Any]]], *, pause: Callable[[float], None] = time.sleep) -> None:
    """Show jobs again and again: as one table on a terminal; in a pipe each line that is new or has changed.

    Args:
        look: Gives the jobs.
        pause: Waits between two looks; seconds.
    """
    if is_terminal():
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            while True:
                live.update(make_table(PS_FIELDS, [list(job.values()) for job in look()]), refresh=True)
                pause(WATCH_EVERY_S)
    known: dict[str, dict[str, Any]] = {}
    while True:
        found = look()
        print_table(PS_FIELDS, [list(job.values()) for job in found if known.get(job["id"]) != job])
        known = {job["id"]: job for job in found}
        pause(WATCH_EVERY_S)


def show(job_id: JobId, json: Json = False) -> None:
    """Show a job: why it is as it is, every change, its attempts, what it took, where to look, and its spec."""
    from tandem.cli.client import Client
    from tandem.cli.follow import progress_text

    client = Client.connect()
    job = client.job(job_id)
    progress = client.progress(job["id"])
    if json:
        print_json({**job, "progress": progress})
        return
    rows: list[list[Any]] = [[field, job[field]] for field in SHOWN if job[field] not in (None, "")]
    rows += [[field, text] for field, text in _said(job).items() if text]
    if progress:
        rows.append(["progress", progress_text(progress)])
    print_table(["", ""], rows)
    if job["steps"]:
        from tandem.cli.pipeline import print_graph

        print_graph(job["steps"])
    print_table(
        ["time", "state", "reason", "lasted", "message"],
        [
            [clock(event["at"]), event["state"], event["reason"], lasted, event["message"]]
            for event, lasted in zip(job["events"], _spans(job["events"]), strict=True)
        ],
        title="changes",
    )
    print_table(
        ["attempt", "ended", "exit", "took", "ran on", "dashboard"],
        [_attempt(attempt) for attempt in job["attempts"]],
        title="attempts",
    )
    _print_spec(job["spec"])


def moment(text: str, now: datetime) -> str:
    """A time as the API takes it.

    Args:
        text: ``30m``, ``12h``, ``7d`` ago; or a date, or a date and a time, on the clock on this wall.
        now: What spans are counted from.

    Raises:
        InputError: Neither.
    """
    from tandem.errors import InputError

    try:
        span = read_span(text)
        at = datetime.fromisoformat(text).astimezone(UTC) if span is None else now - span
    except (ValueError, OverflowError):
        raise InputError(
            f"no time: {text!r}", where="--since", remedy="for example 12h, 7d or 2026-11-30T14:00"
        ) from None
    return at.isoformat()


def clock(seconds: float) -> str:
    """A time as the clock on this wall shows it."""
    return datetime.fromtimestamp(seconds).strftime("%H:%M:%S" if is_terminal() else "%Y-%m-%dT%H:%M:%S")


def _said(job: dict[str, Any]) -> dict[str, str]:
    origin = job["origin"]
    commit = origin.get("git_commit", "")
    changed = " with changes that aren't committed" if origin.get("git_changed") else ""
    versions = ", ".join(f"{name} {origin[name]}" for name in ("tandem", "python") if name in origin)
    return {
        "needs": ", ".join(f"{name} {amount:g}" for name, amount in job["needs"].items()),
        "used": ", ".join(f"{amount:.3g} {name} hours" for name, amount in job["used"].items()),
        "submitted with": versions,
        "code": f"{commit}{changed}" if commit else "",
    }


def _spans(events: list[dict[str, Any]]) -> list[str]:
    """How long each state lasted; nothing for the last one."""
    from tandem.cli.pipeline import spoken

    ends = [event["at"] for event in events[1:]]
    return [spoken(end - event["at"]) for event, end in zip(events, ends, strict=False)] + [""] * bool(events)


def _attempt(attempt: dict[str, Any]) -> list[Any]:
    from tandem.cli.pipeline import spoken

    ended = attempt["ended_at"]
    found = attempt["environment"] or {}
    ran_on = ", ".join(f"{name} {found[name]}" for name in VERSIONS if found.get(name))
    took = "" if ended is None else spoken(ended - attempt["submitted_at"])
    return [attempt["number"], attempt["reason"], attempt["exit_code"], took, ran_on, attempt["dashboard"]]


def _print_spec(spec: dict[str, Any]) -> None:
    import yaml

    if is_terminal():
        note("spec")
    print(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), end="")
