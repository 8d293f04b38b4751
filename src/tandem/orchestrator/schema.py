"""Which version the tables of the job records are of, and what makes them those of this program.

A server that starts brings them up to date, in one transaction: two that start at once do it one after the other, and
one that is killed meanwhile has done nothing.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import Connection, create_engine, inspect, text

from tandem.config.cluster import without_password
from tandem.errors import InputError
from tandem.orchestrator.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

# Not Alembic's own name: MLflow may keep its tables in the same database.
VERSION_TABLE = "tandem_version"
UNVERSIONED = "0001"  # the tables of before there were versions
_LOCK = 0x7461_6E64  # any number that nobody else locks
_SCRIPTS = "tandem.orchestrator:migrations"


def migrate(database: Database) -> None:
    """Make the tables, or bring those of an earlier version up to date.

    Raises:
        InputError: They are of a later version, or of none.
        DatabaseError: The database is away.
    """
    with database.read() as session:
        if version(session.connection()) == versions()[-1]:
            return
    # The import takes seconds, in which nobody else should have to wait for the database.
    import_module("alembic.command")
    with database.write() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            # Large tables may take their time.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = version(connection)
        if found is None and inspect(connection).has_table("jobs"):
            _check_unversioned(connection)
            found = UNVERSIONED
            _stamp(connection, found)
        head = versions()[-1]
        if found != head:
            _upgrade(connection, found, head)


def version(connection: Connection) -> str | None:
    """The tables' version; None where there are none, or they have none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def versions() -> list[str]:
    """All that this program knows, oldest first; the names of the modules say them."""
    modules = (files("tandem.orchestrator.migrations") / "versions").iterdir()
    return sorted(name[1:5] for module in modules if re.fullmatch(r"v\d{4}_\w+\.py", name := module.name))


def _upgrade(connection: Connection, found: str | None, to: str) -> None:
    from alembic import command

    known = versions()
    if found is not None and found not in known:
        raise InputError(
            f"a newer version of Tandem made these job records: version {found}, this one knows up to {known[-1]}",
            where=_where(connection),
            remedy="install that version again, or name another database",
        )
    command.upgrade(_config(connection), to)


def _stamp(connection: Connection, revision: str) -> None:
    from alembic import command

    command.stamp(_config(connection), revision)


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", _SCRIPTS)
    return config


def _check_unversioned(connection: Connection) -> None:
    """Refuse tables without a version that aren't what they were just before there were versions."""
    memory = create_engine("sqlite://")
    with memory.begin() as empty:
        _upgrade(empty, None, UNVERSIONED)
        right = _columns(empty)
    memory.dispose()
    found = _columns(connection)
    for table, columns in right.items():
        lacking, unknown = (sorted(some) for some in (columns - found[table], found[table] - columns))
        if lacking or unknown:
            what = f"has no {', '.join(lacking)}" if lacking else f"has {', '.join(unknown)}"
            raise InputError(
                f"another version of Tandem made these job records: table {table} {what}",
                where=_where(connection),
                remedy="move the database away, or name another; job folders and artifacts stay as they are",
            )


def _columns(connection: Connection) -> dict[str, set[str]]:
    found = inspect(connection)
    there = set(found.get_table_names())
    tables = ("jobs", "attempts", "events")
    return {t: {column["name"] for column in found.get_columns(t)} if t in there else set() for t in tables}


def _where(connection: Connection) -> str:
    return without_password(connection.engine.url.render_as_string(hide_password=False))
