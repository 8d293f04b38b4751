"""``tandem deploy``, ``undeploy`` and ``ask``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tandem.cli.output import note, print_json, print_table
from tandem.cli.serving import DEPLOY_TIMEOUT_S
from tandem.cli.spec_commands import Json, Overrides

SHOWN_CHARACTERS = 100


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (deploy, undeploy, ask):
        app.command()(command)


def deploy(
    file: Annotated[Path, typer.Argument(help="A Ray Serve config.")],
    overrides: Overrides = None,
    wait: Annotated[bool, typer.Option(help="Wait until it answers.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait at most.")] = DEPLOY_TIMEOUT_S,
    json: Json = False,
) -> None:
    """Deploy applications beside those that are deployed already."""
    from tandem.cli.client import Client
    from tandem.cli.serving import absolute_config, deploy_and_wait

    config = absolute_config(file, overrides or [])
    apps = deploy_and_wait(Client.connect(), config, timeout_s=timeout if wait else None)
    if json:
        print_json(apps)
        return
    print_table(["name", "state", "url"], [[app["name"], app["state"], app["url"]] for app in apps])


def undeploy(name: Annotated[str, typer.Argument(help="An application's name.")]) -> None:
    """Take an application down."""
    from tandem.cli.client import Client

    Client.connect().undeploy(name)
    print(f"{name}: undeployed")


def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")] = False,
    app: Annotated[str | None, typer.Option(help="Which application, where several are deployed.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Which model or adapter; default: the application's own choice.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask the endpoint, and show the answer with its citations."""
    from tandem.cli.client import Client
    from tandem.cli.endpoint import Endpoint

    client = Client.connect()
    with Endpoint.of(client, app) as endpoint:
        chosen = model or endpoint.models()[0]
        if stream and not json:
            citations = endpoint.stream(question, chosen, say=lambda text: print(text, end="", flush=True))
            print()
        else:
            body = endpoint.ask(question, chosen)
            if json:
                print_json(body)
                return
            print(body["choices"][0]["message"]["content"])
            citations = body.get("citations") or []
    print_citations(citations)


def print_citations(citations: list[dict[str, Any]]) -> None:
    """What an answer rests on, a line for each passage."""
    for number, citation in enumerate(citations, 1):
        text = " ".join(str(citation["text"]).split())
        shortened = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
        note(f"[{number}] {citation['source']} ({citation['score']:.3f}): {shortened}")
