"""``tandem models``, ``promote``, ``rollback`` and ``releases``: what may answer, what does, and the way back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tandem.cli.output import note, print_json, print_table
from tandem.cli.serving import DEPLOY_TIMEOUT_S
from tandem.cli.spec_commands import Json

Model = Annotated[str, typer.Argument(help="A fine-tuned model: the name of the job that trains it.")]
App = Annotated[
    str | None, typer.Option(help="The endpoint; left out: the one that has the model, or else the only one.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Wait = Annotated[bool, typer.Option(help="Wait until it answers.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (models, promote, rollback, releases):
        app.command()(command)


def models(json: Json = False) -> None:
    """List every version of every fine-tuned model: what comparisons say of it, and where it answers."""
    from tandem.cli.client import Client

    found = Client.connect().models()
    if json:
        print_json(found)
        return
    rows = [
        [
            each["name"],
            each["version"],
            each["kind"],
            each["created_at"][:16],
            _standing(each["standing"]),
            _where(each),
        ]
        for each in found
    ]
    print_table(["model", "version", "kind", "made", "compared", "answers in"], rows)


def promote(
    model: Model,
    version: Annotated[str | None, typer.Argument(help="The id of the job that made it; left out: the newest.")] = None,
    app: App = None,
    canary: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Give it this share of the conversations, 0.1 for a tenth."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the comparisons say; it is written down.")] = False,
    dry_run: DryRun = False,
    wait: Wait = True,
    json: Json = False,
) -> None:
    """Have a version of a model answer what is asked of an endpoint, if a comparison shows that it is no worse."""
    wanted = {"version": version, "app": app, "canary": canary, "force": force}
    _change("promote", model, wanted, dry_run=dry_run, wait=wait, json=json)


def rollback(model: Model, app: App = None, dry_run: DryRun = False, wait: Wait = True, json: Json = False) -> None:
    """Have the version of a model answer that did before the present one; a canary just ends."""
    _change("rollback", model, {"app": app}, dry_run=dry_run, wait=wait, json=json)


def releases(
    app: Annotated[str, typer.Argument(help="An endpoint's name.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The latest so many.")] = 20,
    json: Json = False,
) -> None:
    """List what an endpoint was told to answer with, by whom and on what grounds, the newest first."""
    from tandem.cli.client import Client

    found = Client.connect().releases(app, limit)
    if json:
        print_json(found)
        return
    rows = []
    for each in found:
        facts = each["facts"]
        forced = f"forced, against: {'; '.join(facts['refusals'])}" if facts.get("forced") else None
        grounds = forced or _standing(facts.get("standing"))
        rows.append([each["number"], each["at"], each["act"], each["by"], _answering(each["spec"]), grounds])
    print_table(["number", "at", "act", "by", "answers", "on what grounds"], rows)


def _change(action: str, model: str, wanted: dict[str, Any], *, dry_run: bool, wait: bool, json: bool) -> None:
    from tandem.cli.client import Client
    from tandem.cli.follow import wait_for_app

    client = Client.connect()
    before = {each["name"]: each["deployed_at"] for each in client.apps()}
    change = client.move(model, action, **wanted, dry_run=dry_run)
    if wait and not dry_run and change["changed"]:
        at = before.get(change["app"], 0.0)
        remedy = f"`tandem rollback {model}`" if action == "promote" else "`tandem deploy FILE`"
        wait_for_app(client, change["app"], timeout_s=DEPLOY_TIMEOUT_S, before=at, remedy=remedy)
    if json:
        print_json(change)
    else:
        print(f"{'dry run: ' if dry_run else ''}{change['said']}")
        if change["standing"]:
            note(_standing(change["standing"]) or "")
    for line in change["refusals"]:
        note(f"against it: {line}")
    for line in change["notes"]:
        note(f"note: {line}")
    if dry_run and change["refusals"]:
        raise typer.Exit(1)


def _standing(standing: dict[str, Any] | None) -> str | None:
    if standing is None:
        return None
    value = "-" if standing["value"] is None else f"{standing['value']:.3f}"
    said = f"{standing['metric']} {value} of {standing['n']} ({standing['arm']}, {standing['report']})"
    against = standing["against"]
    if against is None:
        return said
    low, high = against["ci95"]
    return f"{said}; {against['diff']:+.3f} ({low:+.3f} to {high:+.3f}) against {against['what']}"


def _where(version: dict[str, Any]) -> str:
    if version["serving"] is None:
        return "?"
    return ", ".join(
        f"{each['app']} {each['share']:.0%}" if each["share"] else f"{each['app']} (by its name)"
        for each in version["serving"]
    )


def _answering(spec: dict[str, Any]) -> str:
    uris = {each["name"]: each["uri"] for each in spec["adapters"]}
    answers = uris.get(spec["default_model"], spec["model"]).removeprefix("artifact:").partition("#")[0]
    tried = spec.get("canary")
    if not tried:
        return str(answers)
    return f"{answers}, {tried['share']:.0%} {uris[tried['model']].removeprefix('artifact:')}"
