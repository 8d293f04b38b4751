"""Executed by Alembic; the connection comes from `tandem.orchestrator.schema`, or from ``alembic -x url=URL``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from tandem.orchestrator.database import open_database
from tandem.orchestrator.schema import VERSION_TABLE
from tandem.orchestrator.tables import Base


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, version_table=VERSION_TABLE, render_as_batch=True
    )
    with context.begin_transaction():
        context.run_migrations()


if given := context.config.attributes.get("connection"):
    _run(given)
else:
    engine = open_database(context.get_x_argument(as_dictionary=True)["url"])
    with engine.begin() as opened:
        _run(opened)
    engine.dispose()
