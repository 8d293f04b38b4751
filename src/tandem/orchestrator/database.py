"""The connection to the database of the job records: SQLite, or Postgres by URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
    TimeoutError,
)
from sqlalchemy.orm import Session

from tandem.config.cluster import without_password
from tandem.errors import DatabaseError, InputError

BUSY_TIMEOUT_S = 5
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 15
# How a transaction begins, by an execution option of this name.
BEGIN = "tandem_begin"
TO_WRITE = {BEGIN: "BEGIN IMMEDIATE"}
_POSTGRES = ("postgres", "postgresql")
_FULL = ("disk is full", "No space left on device")


class Database:
    """Transactions in the database; safe to use from several threads.

    Args:
        engine: What `open_database` gave.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(**TO_WRITE)
        self._where = without_password(engine.url.render_as_string(hide_password=False))

    def close(self) -> None:
        """Give up the connections."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that changes nothing.

        Raises:
            DatabaseError: The database is away, locked or broken.
        """
        with self._told(), Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that changes something: all of it, or nothing where the block raises.

        What it reads first stays so until it has ended, on SQLite by itself, on Postgres for rows that are read `FOR
        UPDATE`.

        Raises:
            DatabaseError: The database is away, locked, full or broken; whether the change was made isn't known.
        """
        with self._told(), Session(self._writing) as session, session.begin():
            yield session

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (DataError, OverflowError, UnicodeEncodeError) as error:
            raise InputError(f"the job records can't hold that: {_first_line(error)}") from error
        except (OperationalError, InterfaceError, InternalError, TimeoutError) as error:
            said = _first_line(error)
            remedy = "make room there" if any(sign in said for sign in _FULL) else "see that it runs"
            raise DatabaseError(
                f"the database of the job records can't be used now: {said}",
                where=self._where,
                remedy=f"{remedy}: nothing is lost, and what waits goes on by itself",
            ) from error


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


def open_database(url: str) -> Engine:
    """The engine for a URL; connections are made when they are needed.

    Raises:
        InputError: It is none of a database that the records can be kept in.
    """
    known = _checked(url)
    return _open_sqlite(known) if known.get_backend_name() == "sqlite" else _open_postgres(known)


def _checked(url: str) -> URL:
    try:
        known = make_url(url)
    except ArgumentError:
        known = None
    if known is not None and known.drivername in _POSTGRES:
        known = known.set(drivername="postgresql+psycopg")
    if known is None or known.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise InputError(
            "the job records can't be kept there",
            where=f"database: {without_password(url)}",
            remedy="sqlite:///PATH, or postgresql://USER@HOST/DATABASE",
        )
    return known


def _open_sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _write_ahead(connection: Any, _: Any) -> None:
        # The driver begins a transaction only before the first change: what was read before would be outside of it.
        connection.isolation_level = None
        cursor = connection.cursor()
        # Readers don't wait for the writer, and a committed change survives the death of the process.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # One that reads and then writes takes its turn at once: later it would be refused if another had written.
        connection.exec_driver_sql(connection.get_execution_options().get(BEGIN, "BEGIN"))

    return engine


def _open_postgres(url: URL) -> Engine:
    settings = {
        "statement_timeout": STATEMENT_TIMEOUT_S * 1000,
        # Whoever stops in the middle of a change (a frozen machine) gives up its locks.
        "idle_in_transaction_session_timeout": STATEMENT_TIMEOUT_S * 1000,
    }
    # A machine that is cut off answers nothing at all: the kernel would try for a quarter of an hour.
    alive = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 15_000}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return create_engine(
        url,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "options": options, **alive},
    )
