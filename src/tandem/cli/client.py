"""HTTP client of the Tandem server: the errors that come back are the ones that were raised there."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from tandem.cli.origin import here
from tandem.cli.server_errors import error_of, unreachable
from tandem.config.cluster import Cluster
from tandem.errors import AuthError, NotFoundError, UnreachableError

API_KEY_VARIABLE = "TANDEM_API_KEY"
TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0
# The server says something every 15 s, if only that it is there.
SILENT_FOR_S = 60.0
# A server that is started again goes on with what it was telling.
RECONNECT_FOR_S = 60.0
RECONNECT_EVERY_S = 0.5
PAGE = 1000
# Serve's controller may have to start first.
SERVE_CALL_TIMEOUT_S = 180.0
NEXT_OFFSET = "X-Next-Offset"


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        kind: state, log, progress, or end, after which nothing follows.
        data: A change, `{"text"}`, a progress, or the job.
    """

    kind: str
    data: dict[str, Any]


class Client:
    """The server of one cluster.

    Args:
        cluster: Says where it is, and which key to present, unless ``$TANDEM_API_KEY`` does.
        transport: Replaces the network in tests.
        pause: Waits before a broken connection is tried again; seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.cluster = cluster
        self._pause = pause
        self._patient = False
        self._http = httpx.Client(
            base_url=f"{cluster.server_url}/api/v1",
            headers={"Authorization": f"Bearer {os.environ.get(API_KEY_VARIABLE) or cluster.api_key()}"},
            timeout=TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    @cached_property
    def _origin(self) -> dict[str, Any]:
        return here()

    @classmethod
    def connect(cls) -> Client:
        """To the cluster of the current folder, or of ``$TANDEM_STORAGE``.

        Raises:
            UnreachableError: No cluster was started there.
        """
        return cls(Cluster.load())

    def patient(self) -> Client:
        """This client for whoever watches: it asks again, for a minute, while the server or its database is away."""
        patient = copy.copy(self)
        patient._patient = True
        return patient

    def status(self) -> dict[str, Any]:
        """Version, whether Ray answers, jobs by state."""
        return self._json("GET", "/status")

    def checks(self) -> dict[str, Any]:
        """What the server finds of itself and the cluster: `versions`, and `checks` as `tandem doctor` has them."""
        return self._json("GET", "/checks", timeout=SERVE_CALL_TIMEOUT_S)

    def submit(
        self, spec: dict[str, Any], *, again: bool = False, secrets: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Queue a job; ``created`` says whether it is new.

        Args:
            spec: Canonical; `submission.submit_job` sends what it brings along first.
            again: Run it anew although there is one of the same name and spec.
            secrets: Values of the variables that it names without one.
        """
        body = {"spec": spec, "again": again, "origin": self._origin, "secrets": dict(secrets or {})}
        return self._json("POST", "/jobs", json=body)

    def plan(self, spec: dict[str, Any]) -> list[dict[str, Any]]:
        """What would become of each step of a pipeline: step, kind, needs, does, job."""
        return self._list("POST", "/jobs/plan", json={"spec": spec})

    def jobs(self, *, limit: int | None = None, **filters: Any) -> list[dict[str, Any]]:
        """Jobs in the order of their submission.

        Args:
            limit: The latest so many; None: all.
            **filters: state, name, kind, project, user, since.
        """
        chosen = {key: value for key, value in filters.items() if value not in (None, [])}
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while limit is None or len(found) < limit:
            wanted = PAGE if limit is None else min(PAGE, limit - len(found))
            place = {} if cursor is None else {"cursor": cursor}
            page = self._json("GET", "/jobs", params={**chosen, "limit": wanted, **place})
            found += page["jobs"]
            cursor = page["next"]
            if cursor is None:
                break
        return found[::-1]

    def job(self, job_id: str) -> dict[str, Any]:
        """One job with its events and attempts."""
        return self._json("GET", f"/jobs/{_part(job_id)}")

    def stop(self, job_id: str) -> dict[str, Any]:
        """Ask for a job's end."""
        return self._json("POST", f"/jobs/{_part(job_id)}/stop")

    def logs(self, job_id: str, offset: int = 0) -> tuple[str, int]:
        """What a job has printed from a byte on, and the offset of what comes next."""
        response = self._request("GET", f"/jobs/{_part(job_id)}/logs", params={"offset": offset})
        return response.text, int(response.headers[NEXT_OFFSET])

    def events(self, job_id: str, *, logs: bool = True, for_s: float | None = None) -> Iterator[Event]:
        """What happens to a job, as it happens; a connection that breaks is made again where it broke.

        Args:
            job_id: Which, or a job's name.
            logs: Whether what it prints is told too.
            for_s: Seconds after which it stops, whether the job has ended or not; None: when it has.

        Raises:
            UnreachableError: The server didn't come back within a minute.
        """
        deadline = None if for_s is None else time.monotonic() + for_s
        last: str | None = None
        lost_at: float | None = None
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                for kind, identifier, data in self._stream(job_id, last, logs=logs, for_s=left):
                    last, lost_at = identifier or last, None
                    yield Event(kind, data)
                    if kind == "end":
                        return
            except UnreachableError as error:
                if isinstance(error, AuthError) or (last is None and lost_at is None):
                    raise
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > RECONNECT_FOR_S:
                    raise
            if deadline is not None and time.monotonic() >= deadline:
                return
            self._pause(RECONNECT_EVERY_S)

    def _stream(
        self, job_id: str, last: str | None, *, logs: bool, for_s: float | None
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """One connection's events: kind, id, data."""
        from httpx_sse import EventSource

        asked: dict[str, Any] = {"logs": logs} | ({} if for_s is None else {"for_s": for_s})
        headers = {} if last is None else {"Last-Event-ID": last}
        try:
            with self._http.stream(
                "GET", f"/jobs/{_part(job_id)}/events", params=asked, headers=headers, timeout=SILENT_FOR_S
            ) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(response, self.cluster.server_url)
                for event in EventSource(response).iter_sse():
                    # A comment by which the server says that it is there comes as an event without data.
                    if event.data:
                        yield event.event, event.id, json.loads(event.data)
        except httpx.TransportError as error:
            raise unreachable(error, self.cluster.server_url) from None

    def progress(self, job_id: str) -> dict[str, Any] | None:
        """phase, done, total, figures; None before the job has said anything."""
        data: dict[str, Any] | None = self._request("GET", f"/jobs/{_part(job_id)}/progress").json()
        return data

    def result(self, job_id: str) -> dict[str, Any]:
        """What a job that succeeded returned."""
        return self._json("GET", f"/jobs/{_part(job_id)}/result")

    def has_package(self, sha256: str) -> bool:
        """Whether the server has a package."""
        try:
            self._request("GET", f"/packages/{sha256}")
        except NotFoundError:
            return False
        return True

    def send_package(self, sha256: str, file: BinaryIO) -> None:
        """Hand a zipped working directory over."""
        self._request("PUT", f"/packages/{sha256}", content=file, timeout=UPLOAD_TIMEOUT_S)

    def keys(self) -> list[dict[str, Any]]:
        """For whom there are keys."""
        return self._list("GET", "/keys")

    def add_key(self, name: str, role: str) -> dict[str, Any]:
        """Make a key; `key` is told this once."""
        return self._json("POST", "/keys", json={"name": name, "role": role})

    def revoke_key(self, name: str) -> dict[str, Any]:
        """Take a key back."""
        return self._json("DELETE", f"/keys/{_part(name)}")

    def deploy(self, config: dict[str, Any]) -> dict[str, Any]:
        """Hand a Serve config over, without waiting: `applications` by name, and `notes`."""
        return self._json("PUT", "/apps", json={"config": config}, timeout=SERVE_CALL_TIMEOUT_S)

    def apps(self) -> list[dict[str, Any]]:
        """Every application that Ray Serve has."""
        return self._list("GET", "/apps", timeout=SERVE_CALL_TIMEOUT_S)

    def undeploy(self, name: str) -> None:
        """Take an application down."""
        self._request("DELETE", f"/apps/{_part(name)}", timeout=SERVE_CALL_TIMEOUT_S)

    def releases(self, app: str, limit: int) -> list[dict[str, Any]]:
        """What an endpoint was told to answer with, the newest first."""
        return self._list("GET", f"/apps/{_part(app)}/releases", params={"limit": limit})

    def models(self) -> list[dict[str, Any]]:
        """Every version of every fine-tuned model."""
        return self._list("GET", "/models", timeout=SERVE_CALL_TIMEOUT_S)

    def move(self, model: str, action: str, **wanted: Any) -> dict[str, Any]:
        """`promote` a version of a model (version, app, canary, force, dry_run), or `rollback` (app, dry_run)."""
        return self._json("POST", f"/models/{_part(model)}/{action}", json=wanted, timeout=SERVE_CALL_TIMEOUT_S)

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        data: dict[str, Any] = self._request(method, path, **options).json()
        return data

    def _list(self, method: str, path: str, **options: Any) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = self._request(method, path, **options).json()
        return data

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        lost_at: float | None = None
        while True:
            try:
                return self._request_once(method, path, **options)
            except UnreachableError as error:
                # What changes something may have done so.
                if not self._patient or method != "GET" or isinstance(error, AuthError):
                    raise
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > RECONNECT_FOR_S:
                    raise
            self._pause(RECONNECT_EVERY_S)

    def _request_once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise unreachable(error, self.cluster.server_url) from None
        if response.is_success:
            return response
        raise error_of(response, self.cluster.server_url)


def _part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")
