"""What happens to a job as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from anyio import to_thread
from fastapi.sse import ServerSentEvent

from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.records import Records

LOOK_EVERY_S = 0.5
POSITION = r"^[0-9]{1,9}\.[0-9]{1,18}$"


@dataclass(frozen=True)
class Position:
    """How much of a job has been told: an event's id.

    Attributes:
        changes: So many of its changes.
        log: So many bytes of its log.
    """

    changes: int = 0
    log: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Position:
        """From an id; the beginning where there is none."""
        return cls() if text is None else cls(*map(int, text.split(".")))

    def __str__(self) -> str:
        return f"{self.changes}.{self.log}"


@dataclass(frozen=True)
class Look:
    """What one look at a job found.

    Attributes:
        events: To tell now.
        position: What has been told then.
        job: As it stands.
        more: Whether there may be more of its log to read at once.
        progress: How far it says that it is.
    """

    events: list[ServerSentEvent]
    position: Position
    job: Job
    more: bool
    progress: dict[str, Any] | None = None


@dataclass(frozen=True)
class Follower:
    """Tells what happens to one job.

    Attributes:
        job_id: Which.
        records: Have its changes.
        files: Its folder.
        shown: A job as the API shows it.
        pause: Waits between two looks; seconds.
    """

    job_id: str
    records: Records
    files: JobFiles
    shown: Callable[[Job], dict[str, Any]]
    pause: Callable[[float], Awaitable[None]]

    async def events(self, position: Position, *, logs: bool, deadline: float | None) -> AsyncIterator[ServerSentEvent]:
        """A job's events from a position on, until it has ended and all is told.

        Args:
            position: What has been told already.
            logs: Whether what it prints is told too.
            deadline: By `time.monotonic`, when the stream ends at the latest; None: when the job does.
        """
        progress: dict[str, Any] | None = None
        while True:
            look = await to_thread.run_sync(self._look, position, logs)
            position = look.position
            for event in look.events:
                yield event
            if look.more:
                continue
            if look.progress is not None and look.progress != progress:
                progress = look.progress
                yield ServerSentEvent(event="progress", data=progress, id=str(position))
            if look.job.state.final:
                yield ServerSentEvent(event="end", data=self.shown(look.job), id=str(position))
                return
            if deadline is not None and time.monotonic() >= deadline:
                return
            await self.pause(LOOK_EVERY_S)

    def _look(self, position: Position, logs: bool) -> Look:
        # The job before its log: what it printed before it ended isn't missed. Its changes last: its end is told last.
        job = self.records.get(self.job_id)
        data, at = self.files.read_log(position.log) if logs else (b"", 0)
        if data:
            position = replace(position, log=at)
            text = data.decode(errors="replace")
            return Look([_event("log", {"text": text}, position)], position, job, more=True)
        events = []
        for change in self.records.events(job.id)[position.changes :]:
            position = replace(position, changes=position.changes + 1)
            events.append(_event("state", change, position))
        return Look(events, position, job, more=False, progress=self.files.progress() if job.state.active else None)


def _event(kind: str, data: dict[str, Any], position: Position) -> ServerSentEvent:
    return ServerSentEvent(event=kind, data=data, id=str(position))
