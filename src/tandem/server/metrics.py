"""What Prometheus is told of the server and of its jobs: ``GET /metrics``.

All of it is read when it is asked for. No label has a job's id or a person's name: there are as many time series after
a year as on the first day. docs/on-call.md has the table of them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from tandem.errors import DatabaseError
from tandem.orchestrator.checks import server_versions
from tandem.orchestrator.executor import Orchestrator
from tandem.orchestrator.jobs import Job
from tandem.orchestrator.records import Records
from tandem.orchestrator.resources import OF_TYPE, Amounts, Room, summed
from tandem.orchestrator.states import FINAL, State
from tandem.orchestrator.tally import Tally, Totals
from tandem.server.faults import documented
from tandem.specs import JOB_KINDS, RAY_KINDS

UNFINISHED = tuple(state for state in State if state not in FINAL)


def metrics_router(records: Records, orchestrator: Orchestrator) -> APIRouter:
    """The route of the metrics.

    Args:
        records: The job records.
        orchestrator: Knows how the control loop goes, and what the cluster has.
    """
    router = APIRouter(tags=["server"])
    registry = CollectorRegistry()
    registry.register(ServerCollector(records, orchestrator))
    ProcessCollector(registry=registry)

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={**documented(), 200: {"description": "in Prometheus' text format"}},
    )
    def metrics() -> Response:
        """What Prometheus scrapes; a viewer's key is enough."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


class ServerCollector:
    """Reads the figures for a scrape.

    Args:
        records: The job records.
        orchestrator: Knows how the control loop goes, and what the cluster has.
    """

    def __init__(self, records: Records, orchestrator: Orchestrator) -> None:
        self._records = records
        self._orchestrator = orchestrator
        self._tally = Tally(records.database)

    def collect(self) -> Iterator[Metric]:
        """All that is known now; without what is on record while the database is away."""
        orchestrator = self._orchestrator
        yield InfoMetricFamily("tandem_build", "Versions of the server", value=server_versions())
        yield _gauge("acts", "1 where this server starts and watches jobs, 0 where another one does", orchestrator.acts)
        yield _gauge("ray_up", "1 where Ray answered when it was last asked", orchestrator.ray_reachable)
        pace = orchestrator.pace
        yield _gauge("control_loop_idle_seconds", "Since the control loop last came further", pace.idle_s())
        yield from pace.turns.collect()
        yield from pace.failed_turns.collect()
        yield from _storage(orchestrator.cluster.storage)
        room = orchestrator.room
        try:
            unfinished, totals = self._records.find(states=UNFINISHED), self._tally.totals()
        except DatabaseError:
            # That the rest is known is worth more than an error in the place of all.
            yield _gauge("database_up", _DATABASE, value=False)
            return
        yield _gauge("database_up", _DATABASE, value=True)
        yield _jobs(unfinished)
        wait_s = first_wait_s(unfinished, orchestrator.clock())
        yield _gauge(
            "queue_first_wait_seconds", "For how long the first in line has waited; 0 where nobody waits", wait_s
        )
        yield from _counters(totals)
        if room is not None:
            yield _amounts("resources_offered", "What the cluster has for jobs at the moment", room.now)
            yield _amounts("resources_held", "What jobs hold, or may come to hold", held(unfinished, room))


def first_wait_s(jobs: Sequence[Job], now: float) -> float:
    """How long the first in line has waited: that of the highest priority, and of those the oldest.

    Args:
        jobs: Those that haven't ended, in the order of their submission.
        now: Seconds since the epoch.
    """
    line = [job for job in jobs if job.kind in RAY_KINDS and not job.state.active and job.not_before <= now]
    return max(0.0, now - max(line, key=lambda job: job.queue.priority).waiting_since) if line else 0.0


def held(jobs: Sequence[Job], room: Room) -> Amounts:
    """What jobs hold of a cluster, together.

    Args:
        jobs: Those that haven't ended.
        room: What there is.
    """
    active = [job for job in jobs if job.kind in RAY_KINDS and job.state.active]
    return summed((room.held_by(job.demands[room.gpus]), 1) for job in active)


_DATABASE = "1 where the job records could be read; what is read from them is missing otherwise"


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tandem_{name}", what, value=float(value))


def _jobs(unfinished: Sequence[Job]) -> GaugeMetricFamily:
    found = Counter((job.kind, job.state) for job in unfinished)
    family = GaugeMetricFamily("tandem_jobs", "Jobs that haven't ended", labels=("kind", "state"))
    for kind in JOB_KINDS:
        for state in UNFINISHED:
            family.add_metric((kind, str(state)), found[kind, state])
    return family


def _counters(totals: Totals) -> Iterator[CounterMetricFamily]:
    labels = ("kind", "state", "reason")
    ended = CounterMetricFamily("tandem_jobs_ended", "Jobs that have ended, since there are records", labels=labels)
    for ending, times in totals.ended.items():
        ended.add_metric(ending, times)
    attempts = CounterMetricFamily("tandem_job_attempts", "Attempts that were begun", labels=("kind",))
    for kind, times in totals.attempts.items():
        attempts.add_metric((kind,), times)
    retries = CounterMetricFamily("tandem_job_retries", "Attempts that another one follows", labels=("kind", "reason"))
    for retry, times in totals.retries.items():
        retries.add_metric(retry, times)
    yield from (ended, attempts, retries)


def _amounts(name: str, what: str, amounts: Mapping[str, float]) -> GaugeMetricFamily:
    # Memory and what operators have made up themselves are Ray's to tell.
    family = GaugeMetricFamily(f"tandem_{name}", what, labels=("resource",))
    for resource in sorted({"CPU", "GPU", *(known for known in amounts if known.startswith(OF_TYPE))}):
        family.add_metric((resource,), amounts.get(resource, 0.0))
    return family


def _storage(folder: Path) -> Iterator[GaugeMetricFamily]:
    with suppress(OSError):  # unmounted: jobs say so, and there is nothing to measure
        usage = shutil.disk_usage(folder)
        yield _gauge("storage_free_bytes", "Free under the storage folder", usage.free)
        yield _gauge("storage_size_bytes", "Size of the file system under the storage folder", usage.total)
