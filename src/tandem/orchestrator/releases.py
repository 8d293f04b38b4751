"""What each application was told to answer with, by whom and on what grounds: the way back, and the record.

The present is what Ray Serve says; this is the past.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select

from tandem.orchestrator.database import Database
from tandem.orchestrator.promotion import version_in
from tandem.orchestrator.tables import ReleaseRow
from tandem.specs.rag import RagSpec


class Act(StrEnum):
    """What made a release."""

    DEPLOY = "deploy"
    PROMOTE = "promote"
    CANARY = "canary"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Cause:
    """Why an application is changed.

    Attributes:
        act: What is done.
        by: Whose key it was asked with.
        facts: On what grounds, as JSON types: see `promotion.Change.facts`.
    """

    act: Act = Act.DEPLOY
    by: str = ""
    facts: Mapping[str, Any] | None = None


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
        facts: On what grounds.
    """

    number: int
    app: str
    act: Act
    at: float
    by: str
    spec: dict[str, Any]
    facts: dict[str, Any]


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
            app=app, action=str(cause.act), at=self._clock(), by=cause.by, spec=_json(spec.canonical()),
            facts=_json(cause.facts or {}), done=False,
        )  # fmt: skip
        with self._database.write() as session:
            session.add(row)
            session.flush()
            return row.seq

    def done(self, number: int) -> None:
        """Ray Serve has taken it."""
        with self._database.write() as session:
            session.get_one(ReleaseRow, number).done = True

    def of(self, app: str, *, limit: int | None = None) -> list[Release]:
        """An application's releases that Ray Serve took, the newest first."""
        query = select(ReleaseRow).where(ReleaseRow.app == app, ReleaseRow.done).order_by(ReleaseRow.seq.desc())
        with self._database.read() as session:
            rows = session.scalars(query.limit(limit)).all()
            return [
                Release(row.seq, row.app, Act(row.action), row.at, row.by, json.loads(row.spec), json.loads(row.facts))
                for row in rows
            ]

    def promoted(self, app: str) -> dict[str, str]:
        """The versions that an application has of those models that were ever promoted in it, by model."""
        found = self.of(app)
        models = {release.facts.get("model") for release in found if release.act is not Act.DEPLOY}
        if not models:
            return {}
        spec = found[0].spec
        tried = (spec.get("canary") or {}).get("model")
        uris = [spec["model"], *(each["uri"] for each in spec["adapters"] if each["name"] != tried)]
        return {named[0]: named[1] for uri in uris if (named := version_in(uri)) and named[0] in models}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
