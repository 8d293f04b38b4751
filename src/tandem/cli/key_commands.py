"""``tandem keys add``, ``list`` and ``revoke``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tandem.cli.output import note, print_json, print_table
from tandem.cli.spec_commands import Json

FIELDS = ("name", "role", "created_at")
KeyOwner = Annotated[str, typer.Argument(metavar="NAME", help="Whose key; stands as `user` with their jobs.")]


class RoleName(StrEnum):
    """The server's roles; a test sees that they agree."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, list and take back keys to the server.")
    keys.command("add")(add)
    keys.command("list")(list_keys)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")


def add(
    name: KeyOwner,
    role: Annotated[
        RoleName, typer.Option(help="viewer: reads; submitter: also submits and ends own jobs; admin: everything.")
    ] = RoleName.SUBMITTER,
    json: Json = False,
) -> None:
    """Make a key and print it, this once; whoever has it sets TANDEM_API_KEY to it."""
    from tandem.cli.client import Client

    made = Client.connect().add_key(name, role.value)
    if json:
        print_json(made)
        return
    print(made["key"], flush=True)
    note(f"{role.value} {name}: keep it now, it can't be shown again; TANDEM_API_KEY takes it")


def list_keys(json: Json = False) -> None:
    """List for whom there are keys, and what they allow."""
    from tandem.cli.client import Client

    found = Client.connect().keys()
    if json:
        print_json(found)
    else:
        print_table(FIELDS, [[key[field] for field in FIELDS] for key in found])


def revoke(name: KeyOwner) -> None:
    """Take a key back: the server refuses it from now on."""
    from tandem.cli.client import Client

    gone = Client.connect().revoke_key(name)
    print(f"{gone['name']}: revoked")
