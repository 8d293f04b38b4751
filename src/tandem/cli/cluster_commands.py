"""``tandem up``, ``down``, ``status`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tandem.cli.output import note, print_json, print_table
from tandem.cli.spec_commands import Json, Overrides


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (up, down, status, doctor):
        app.command()(command)


def up(
    file: Annotated[Path | None, typer.Argument(metavar="[CLUSTER.yaml]", help="A spec of kind cluster.")] = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Start a cluster on this machine, or attach to one. What is up already is left alone."""
    from tandem.errors import SpecError
    from tandem.orchestrator.local import up as bring_up
    from tandem.specs import ClusterSpec
    from tandem.specs.loading import load_spec

    spec = ClusterSpec() if file is None else load_spec(file, overrides or [])
    if not isinstance(spec, ClusterSpec):
        raise SpecError(f"a spec of kind {spec.canonical()['kind']!r} is no cluster", where=str(file))
    done = bring_up(spec, say=note)
    if not done.started:
        note("it is up already")
    facts = _facts(done.cluster)
    if json:
        print_json({**facts, "started": list(done.started)})
    else:
        print_table(["", ""], list(facts.items()))


def down() -> None:
    """Stop the cluster that was started here, with what is deployed on it. Records and artifacts stay."""
    from tandem.cli.client import Client
    from tandem.errors import TandemError
    from tandem.orchestrator.local import down as bring_down

    active = 0
    try:
        counts = Client.connect().status()["jobs"]
        active = sum(number for state, number in counts.items() if state not in ("SUCCEEDED", "FAILED", "STOPPED"))
    except TandemError:
        # It is about to be stopped: whether it answers matters little.
        active = 0
    if not bring_down(say=note):
        note("nothing was up here")
    elif active:
        note(f"{active} unfinished job(s): they go on after the next `tandem up`")


def status(json: Json = False) -> None:
    """Show what is up, and where."""
    from tandem.cli.client import Client
    from tandem.errors import TandemError, UnreachableError

    client = Client.connect()
    cluster = client.cluster
    seen = client.status()
    facts: dict[str, Any] = {**_facts(cluster), "ray": "up" if seen["ray"] else "doesn't answer", "jobs": seen["jobs"]}
    try:
        facts["apps"] = client.apps() if seen["ray"] else []
    except TandemError as error:
        facts["apps"] = []
        note(f"Ray Serve: {error.what}")
    if json:
        print_json(facts)
    else:
        jobs = ", ".join(f"{number} {state}" for state, number in seen["jobs"].items()) or "none"
        apps = [f"{app['name']}: {app['state']} at {app['url']} {app['message']}".rstrip() for app in facts["apps"]]
        shown = {**facts, "jobs": jobs, "apps": "\n".join(apps) or "none"}
        print_table(["", ""], list(shown.items()))
    if not seen["ray"]:
        raise UnreachableError(
            "the Ray head doesn't answer", where=cluster.dashboard_url, remedy="`tandem up` starts what isn't up"
        )


def doctor(json: Json = False) -> None:
    """Check what this machine and the cluster need, and say what to do about what is missing."""
    from tandem.cli.doctor import examine

    checks = examine()
    if json:
        print_json([check.as_dict() for check in checks])
    else:
        print_table(["", "check", "found", "what to do"], [[c.result, c.name, c.found, c.remedy] for c in checks])
    if any(check.result == "bad" for check in checks):
        raise typer.Exit(1)


def _facts(cluster: Any) -> dict[str, Any]:
    from tandem.config.cluster import without_password

    return {
        "dashboard": cluster.dashboard_url,
        "server": cluster.server_url,
        "endpoint": cluster.endpoint_url,
        "mlflow": without_password(cluster.mlflow_uri),
        "storage": str(cluster.storage),
    }
