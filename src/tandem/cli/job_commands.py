"""``tandem submit``, ``logs``, ``stop`` and ``wait``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tandem.cli.job_views import PS_FIELDS, JobId
from tandem.cli.output import note, print_json, print_table
from tandem.cli.spec_commands import Json, Overrides


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (submit, logs, stop, wait):
        app.command()(command)


def submit(
    file: Annotated[Path, typer.Argument(help="A spec of kind index, finetune, compare or pipeline.")],
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it to its end.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Run it anew although the same job exists.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A variable for the job; NAME alone takes its value from here, unrecorded."
        ),
    ] = None,
    working_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder that travels with the job.")] = None,
    pip: Annotated[list[str] | None, typer.Option(metavar="REQ", help="A package that the job needs besides.")] = None,
    json: Json = False,
) -> None:
    """Queue a job and print its id. The same name and spec give the same job."""
    from tandem.cli import follow as following
    from tandem.cli.client import Client
    from tandem.cli.spec_commands import load_job
    from tandem.cli.submission import runtime_overrides, submit_job

    brought = runtime_overrides(env or [], working_dir, pip or [])
    spec = load_job(file, [*(overrides or []), *brought])
    client = Client.connect()
    job = submit_job(client, spec, again=again)
    if json and not follow:
        print_json(job)
    elif not json:
        print(job["id"], flush=True)
    if not job["created"]:
        whose = f", submitted by {job['user']}" if job["user"] else ""
        note(f"this job exists already and is {job['state']}{whose}; --again runs it anew")
    elif job["same_name"]:
        others = ", ".join(job["same_name"])
        note(f"the name {job['name']} stands for this job from now on; unfinished, with another spec: {others}")
    if follow:
        # With --json stdout is for the result alone.
        result = _quiet_follow(client, job["id"]) if json else following.follow(client, job["id"])
        if json:
            print_json(result)
        else:
            _print_result(result)


def logs(
    job_id: JobId,
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="Of a pipeline: this step's alone.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="As it grows, until the job ends.")] = False,
) -> None:
    """Print what a job has printed, of all its attempts; also long after its cluster has gone."""
    from tandem.cli.client import Client
    from tandem.cli.follow import print_log
    from tandem.cli.pipeline import job_of_step, print_step_logs

    client = Client.connect()
    job = client.job(job_id)
    if job["kind"] == "pipeline" and step is None:
        job = print_step_logs(client, job["id"], until_end=follow)
    else:
        job = print_log(client, job["id"] if step is None else job_of_step(job, step), until_end=follow)
    if follow:
        note(f"{job['id']}: {job['state']} ({job['reason']})" + (f" {job['message']}" if job["message"] else ""))


def stop(job_id: JobId, json: Json = False) -> None:
    """End a job. One that has ended already stays as it is."""
    from tandem.cli.client import Client
    from tandem.cli.follow import wait as wait_for

    client = Client.connect()
    job = wait_for(client, client.stop(job_id)["id"], timeout_s=60)
    if json:
        print_json({field: job[field] for field in PS_FIELDS})
    else:
        print(f"{job['id']}: {job['state']}")


def wait(
    job_id: JobId,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
    json: Json = False,
) -> None:
    """Wait for a job's end; exit with 1 unless it succeeded."""
    from tandem.cli.client import Client
    from tandem.cli.follow import failure
    from tandem.cli.follow import wait as wait_for

    job = wait_for(Client.connect(), job_id, timeout_s=timeout)
    if json:
        print_json({field: job[field] for field in PS_FIELDS})
    else:
        print(f"{job['id']}: {job['state']}")
    if job["state"] != "SUCCEEDED":
        raise failure(job)


def _quiet_follow(client: Any, job_id: str) -> dict[str, Any]:
    from tandem.cli.follow import failure, leaving
    from tandem.cli.follow import wait as wait_for

    note(job_id)
    with leaving(job_id):
        job = wait_for(client, job_id)
    if job["state"] != "SUCCEEDED":
        raise failure(job)
    result: dict[str, Any] = client.result(job_id)
    return result


def _print_result(result: dict[str, Any]) -> None:
    if "steps" in result:
        print_table(["step", "job"], [[name, step["job"]] for name, step in result["steps"].items()])
        return
    print_table(["", ""], [[key, value] for key, value in result.items() if not isinstance(value, dict | list)])
