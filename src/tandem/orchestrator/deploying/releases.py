"""What each application was told to answer with, by whom and on what grounds: the way back, and the record.

The present is what Ray Serve says; this is the past.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select

from tandem.orchestrator.database import Database
from tandem.orchestrator.tables import ReleaseRow
from tandem.specs.rag import RagSpec


class Act(StrEnum):
    """What made a release."""

    DEPLOY = "deploy"
    PROMOTE = "promote"
    CANARY = "canary"
    ROLLBACK = "rollback"
    UNDEPLOY = "undeploy"
    FOUND = "found"  # somebody changed it without us, or an earlier version of Tandem did


PROMOTING = frozenset({Act.PROMOTE, Act.CANARY, Act.ROLLBACK})


@dataclass(frozen=True)
class Cause:
    """Why an application is changed.

    Attributes:
        act: What is done.
        by: Whose key it was asked with.
        job: The promote job that asks for it; empty without one.
        facts: As JSON types. Of a deploy `file`, what the file says; else on what grounds: `Change.facts`.
    """

    act: Act = Act.DEPLOY
    by: str = ""
    job: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """One state of an application.

    Attributes:
        number: Of the release; they grow.
        app: The application's name.
        act: What made it.
        at: Seconds since the epoch.
        by: Whose key it was asked with.
        spec: What answers from then on, as JSON types: an earlier version of Tandem may have written it.
        facts: On what grounds, with `index`: the collection's snapshot at that time.
    """

    number: int
    app: str
    act: Act
    at: float
    by: str
    spec: dict[str, Any]
    facts: dict[str, Any]

    def read(self, what: str | None = None) -> RagSpec | None:
        """Its spec, or that in a fact; None where there is none, or it is in words that this version doesn't know."""
        try:
            return RagSpec.model_validate(self.spec if what is None else self.facts[what])
        except (ValidationError, KeyError):
            return None


class Releases:
    """Reads and writes releases; safe to use from several threads.

    Args:
        database: Of the job records.
        clock: Seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def begin(self, app: str, spec: RagSpec, cause: Cause) -> int:
        """Write down what Ray Serve is about to be told.

        Returns:
            The release's number, for `done`.
        """
        row = ReleaseRow(
            app=app, action=str(cause.act), at=self._clock(), by=cause.by, job=cause.job, spec=_json(spec.canonical()),
            facts=_json(cause.facts), done=False,
        )  # fmt: skip
        with self._database.write() as session:
            session.add(row)
            session.flush()
            return row.seq

    def done(self, number: int) -> None:
        """Ray Serve has taken it."""
        with self._database.write() as session:
            session.get_one(ReleaseRow, number).done = True

    def settle(self, app: str, present: RagSpec | None) -> None:
        """Note that the last release was taken after all: Ray Serve has it, and whoever asked for it didn't hear.

        Args:
            app: The application's name.
            present: What it answers with; None: Ray Serve hasn't got it.
        """
        query = select(ReleaseRow).where(ReleaseRow.app == app).order_by(ReleaseRow.seq.desc()).limit(1)
        with self._database.write() as session:
            row = session.scalars(query).first()
            if row is None or row.done:
                return
            there = None if present is None else present.canonical()
            row.done = there is None if row.action == Act.UNDEPLOY else there == json.loads(row.spec)

    def by_job(self, job: str) -> Release | None:
        """What a promote job has changed, if Ray Serve took it."""
        query = select(ReleaseRow).where(ReleaseRow.job == job, ReleaseRow.done, ReleaseRow.action != Act.ROLLBACK)
        with self._database.read() as session:
            row = session.scalars(query.order_by(ReleaseRow.seq).limit(1)).first()
            return None if row is None else _release(row)

    def of(self, app: str, *, limit: int | None = None) -> list[Release]:
        """An application's releases that Ray Serve took, the newest first."""
        query = select(ReleaseRow).where(ReleaseRow.app == app, ReleaseRow.done).order_by(ReleaseRow.seq.desc())
        with self._database.read() as session:
            return [_release(row) for row in session.scalars(query.limit(limit))]

    def life(self, app: str) -> list[Release]:
        """Those since it was last taken down, the oldest first: who deploys the name anew begins anew."""
        found: list[Release] = []
        for release in self.of(app):
            if release.act is Act.UNDEPLOY:
                break
            found.append(release)
        return found[::-1]


def promoted_models(life: Sequence[Release]) -> set[str]:
    """The models of which somebody decided in an application which version answers."""
    return {str(release.facts.get("model")) for release in life if release.act in PROMOTING}


def promoted_places(life: Sequence[Release]) -> set[str]:
    """The places of its spec that were changed by that."""
    return {place for release in life if release.act in PROMOTING for place in release.facts.get("changed", ())}


def last_file(life: Sequence[Release]) -> RagSpec | None:
    """What the file said that was deployed last; a deploy of the same file doesn't say it again."""
    return next((file for release in reversed(life) if (file := release.read("file"))), None)


def _release(row: ReleaseRow) -> Release:
    return Release(row.seq, row.app, Act(row.action), row.at, row.by, json.loads(row.spec), json.loads(row.facts))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
