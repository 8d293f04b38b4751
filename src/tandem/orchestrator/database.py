"""The connection to the database of the job records."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import Engine

from tandem.config.cluster import without_password
from tandem.errors import InputError
from tandem.orchestrator.tables import Base

BUSY_TIMEOUT_S = 15


def open_database(url: str) -> Engine:
    """The engine for a URL; connections are made when they are needed."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _write_ahead(connection: Any, _: Any) -> None:
        # Readers don't wait for the writer, and a committed change survives the death of the process.
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


def make_tables(engine: Engine) -> None:
    """Make the tables that aren't there.

    Raises:
        InputError: One that is there lacks a column: another version made it.
    """
    Base.metadata.create_all(engine)
    found = inspect(engine)
    for table in Base.metadata.tables.values():
        there = {column["name"] for column in found.get_columns(table.name)}
        lacking = sorted({column.name for column in table.columns} - there)
        if lacking:
            raise InputError(
                f"another version of Tandem made these job records: table {table.name} has no {', '.join(lacking)}",
                where=without_password(engine.url.render_as_string(hide_password=False)),
                remedy="move the database away, or name another; job folders and artifacts stay as they are",
            )
