from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from tandem.errors import DatabaseError, InputError
from tandem.orchestrator.database import Database, open_database
from tandem.orchestrator.records import Records
from tandem.orchestrator.schema import UNVERSIONED, VERSION_TABLE, migrate, version, versions
from tandem.orchestrator.states import Reason, State
from tandem.orchestrator.tables import Base


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(open_database(database_url))
    yield made
    made.close()


def run(database: Database, *statements: str) -> None:
    with database.write() as session:
        for statement in statements:
            session.execute(text(statement))


def version_of(database: Database) -> str | None:
    with database.read() as session:
        return version(session.connection())


def at_version(database: Database, revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made by a program that knew no more than this version."""
    with monkeypatch.context() as patch:
        patch.setattr("tandem.orchestrator.schema.versions", lambda: [v for v in versions() if v <= revision])
        migrate(database)


def test_the_names_of_the_versions_are_those_that_alembic_knows() -> None:
    scripts = ScriptDirectory("src/tandem/orchestrator/migrations")
    assert versions() == [script.revision for script in scripts.walk_revisions()][::-1]


def test_a_new_database_has_the_tables_that_the_program_expects(database: Database) -> None:
    migrate(database)
    assert version_of(database) == versions()[-1]
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []
    # Again is no change.
    migrate(database)


def test_records_of_every_earlier_version_are_brought_up_to_date_and_nothing_is_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_version(database, UNVERSIONED, monkeypatch)
    run(
        database,
        "INSERT INTO jobs (id, name, kind, spec, state, reason, message, attempt, acknowledged, stop_requested, judged,"
        " not_before, created_at) VALUES ('a-1', 'a', 'index', '{}', 'RUNNING', 'driver_runs', '', 1, true, false,"
        " true, 0, 5)",
        "INSERT INTO attempts (job_id, number, submission_id, reason, message, submitted_at, end_reason, end_message)"
        " VALUES ('a-1', 1, 'a-1.1', '', '', 6, '', '')",
        "INSERT INTO events (job_id, at, attempt, state, reason, message)"
        " VALUES ('a-1', 5, 0, 'QUEUED', 'submitted', '')",
        # As they were before there were versions.
        f"DROP TABLE {VERSION_TABLE}",
    )  # fmt: skip
    records = Records(database.engine.url.render_as_string(hide_password=False))
    try:
        job = records.get("a-1")
        assert (job.state, job.current.submitted_at, len(records.events("a-1"))) == (State.RUNNING, 6, 1)
        records.change("a-1", State.SUCCEEDED, Reason.DONE)
        assert version_of(database) == versions()[-1]
        with database.read() as session:
            context = MigrationContext.configure(session.connection(), opts={"version_table": VERSION_TABLE})
            assert compare_metadata(context, Base.metadata) == []
    finally:
        records.close()


def test_records_that_no_version_made_are_refused_as_they_are(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_version(database, UNVERSIONED, monkeypatch)
    run(database, "ALTER TABLE jobs DROP COLUMN judged", f"DROP TABLE {VERSION_TABLE}")
    with pytest.raises(InputError, match=r"table jobs has no judged .*move the database away"):
        migrate(database)
    assert version_of(database) is None
    run(database, "ALTER TABLE jobs ADD COLUMN judged BOOLEAN", "ALTER TABLE events ADD COLUMN more INTEGER")
    with pytest.raises(InputError, match="table events has more"):
        migrate(database)


def test_records_of_a_later_version_are_refused_as_they_are(database: Database) -> None:
    migrate(database)
    run(database, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(InputError, match=r"a newer version .*: version 9999, .*install that version again"):
        migrate(database)
    assert version_of(database) == "9999"


def test_servers_that_start_at_once_make_the_tables_once(database_url: str) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            Records(database_url).close()
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("url", ["mysql://u:secret@host/db", "nonsense", "postgresql+asyncpg://u@h/d"])
def test_what_records_cannot_be_kept_in_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="can't be kept there") as refused:
        open_database(url)
    assert "secret" not in str(refused.value)


def test_a_database_that_is_not_there_is_told_with_its_place_and_without_its_password() -> None:
    with pytest.raises(DatabaseError, match=r"127.0.0.1:1/records: .*refused") as away:
        Records("postgresql://tandem:secret@127.0.0.1:1/records")
    assert "secret" not in str(away.value)


def test_a_migration_that_fails_half_way_has_done_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            migrate(database)
    assert inspect(database.engine).get_table_names() == []
    migrate(database)
