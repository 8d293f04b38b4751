"""Ray's Jobs API over HTTP: the one place from which this project talks to it.

Ray's own `JobSubmissionClient` has no time-outs (it blocks 61 s while the GCS is down) and lets `RAY_ADDRESS`
override its address, so the documented REST calls behind it are made directly, each with a deadline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from tandem.config.cluster import Cluster
from tandem.errors import AuthError, TandemError, UnreachableError
from tandem.orchestrator.states import Observation

CALL_TIMEOUT_S = 10.0
SUBMIT_TIMEOUT_S = 30.0
# Ray hands out a job's whole log as one piece of JSON, which takes several times its size to read.
MAX_LOG_BYTES = 32 * 2**20
LAST_LINES = 1000
_ESCAPE = 12  # characters of JSON's longest one, a pair of surrogates


@dataclass(frozen=True)
class Machine:
    """A node of the cluster.

    Attributes:
        cpus: Logical ones, as Ray counts them.
        gpus: The same.
        memory: Of the machine, in bytes; 0 where it isn't said.
        gpu_memory: Of its smallest GPU, in bytes; 0 where it isn't said.
        resources: All that Ray says it has, by Ray's names.
    """

    cpus: float
    gpus: float
    memory: int
    gpu_memory: int
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """What a driver has printed so far.

    Attributes:
        text: From its beginning.
        whole: Whether that is all; Ray has more than is fetched.
    """

    text: str
    whole: bool = True


def machine_of(node: Mapping[str, Any]) -> Machine:
    """From a node's summary, as Ray's dashboard gives it."""
    resources = (node.get("raylet") or {}).get("resourcesTotal") or {}
    memory = node.get("mem") or [0]
    gpus = [gpu.get("memoryTotal") or gpu.get("memory_total") or 0 for gpu in node.get("gpus") or []]
    return Machine(
        cpus=float(resources.get("CPU", 0.0)),
        gpus=float(resources.get("GPU", 0.0)),
        memory=int(memory[0]),
        gpu_memory=int(min(gpus, default=0)) * 2**20,  # the dashboard counts it in MiB
        resources={name: float(amount) for name, amount in resources.items()},
    )


class RayJobs(Protocol):
    """What the control loop needs of Ray; `FakeRayJobs` is the one for tests."""

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """Start an entrypoint; a used submission id is no error, since the call may be made again.

        Raises:
            UnreachableError: Ray didn't answer, or couldn't take it now.
            TandemError: Ray refused it.
        """

    def observe(self, submission_id: str) -> Observation:
        """What Ray says of a submission; never raises for a head that is down."""

    def stop(self, submission_id: str) -> None:
        """Ask Ray to end a submission; one that Ray doesn't know is no error.

        Raises:
            UnreachableError: Ray didn't answer.
        """

    def logs(self, submission_id: str) -> Log | None:
        """What the driver has printed so far, or None where Ray can't say: it reads the log as strict UTF-8."""

    def last_lines(self, submission_id: str) -> str | None:
        """The last of it, whatever its bytes; None where Ray can't say."""

    def machines(self) -> list[Machine] | None:
        """All nodes that live, or None where Ray doesn't answer.

        Raises:
            AuthError: It answers, and refuses our token.
        """


class HttpRayJobs:
    """The REST API of a Ray dashboard.

    Args:
        cluster: Whose dashboard; its token file is read at every call, so a changed token needs no restart.
        transport: Replaces the network in tests.
    """

    def __init__(self, cluster: Cluster, *, transport: httpx.BaseTransport | None = None) -> None:
        self._cluster = cluster
        # Proxy variables are for the world outside, not for a dashboard.
        self._http = httpx.Client(
            base_url=cluster.dashboard_url, timeout=CALL_TIMEOUT_S, transport=transport, trust_env=False
        )

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """See `RayJobs.submit`."""
        body = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": dict(runtime_env),
            "metadata": dict(metadata),
        }
        response = self.call("POST", "/api/jobs/", json=body, timeout=SUBMIT_TIMEOUT_S)
        if response.is_success or "already exists" in response.text:
            return
        said = (response.text.strip().splitlines() or [str(response.status_code)])[-1]
        if response.status_code >= 500:
            raise UnreachableError(f"Ray couldn't take the job: {said}", where=self._cluster.dashboard_url)
        raise TandemError(f"Ray refused the job: {said}", where=self._cluster.dashboard_url)

    def observe(self, submission_id: str) -> Observation:
        """See `RayJobs.observe`."""
        try:
            response = self.call("GET", f"/api/jobs/{submission_id}")
        except UnreachableError:
            return Observation("UNREACHABLE")
        if response.status_code == 404:
            return Observation("MISSING")
        if not response.is_success:
            return Observation("UNREACHABLE")
        details: dict[str, Any] = response.json()
        return Observation(
            status=str(details["status"]),
            error_type=details.get("error_type"),
            message=details.get("message"),
            exit_code=details.get("driver_exit_code"),
        )

    def stop(self, submission_id: str) -> None:
        """See `RayJobs.stop`."""
        response = self.call("POST", f"/api/jobs/{submission_id}/stop")
        if not response.is_success and response.status_code != 404:
            raise UnreachableError(f"Ray couldn't stop {submission_id}", where=self._cluster.dashboard_url)

    def logs(self, submission_id: str) -> Log | None:
        """See `RayJobs.logs`."""
        body = self._body(f"/api/jobs/{submission_id}/logs")
        if body is None:
            return None
        whole = len(body) <= MAX_LOG_BYTES
        return Log(
            str(json.loads(body)["logs"]) if whole else _cut(body[:MAX_LOG_BYTES].decode(errors="ignore")), whole
        )

    def last_lines(self, submission_id: str) -> str | None:
        """See `RayJobs.last_lines`."""
        body = self._body("/api/v0/logs/file", submission_id=submission_id, lines=LAST_LINES)
        return None if body is None else body[-MAX_LOG_BYTES:].decode(errors="replace")

    def _body(self, path: str, **parameters: str | int) -> bytes | None:
        """What is answered, no further than just beyond the limit; None where it is no success."""
        body = bytearray()
        try:
            with self._http.stream("GET", path, params=parameters, headers=self._headers()) as response:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > MAX_LOG_BYTES:
                        break
                return bytes(body) if response.is_success else None
        except (httpx.TransportError, AuthError):
            return None

    def cpus(self) -> float | None:
        """Logical CPUs of all nodes that live, or None where Ray doesn't answer."""
        machines = self.machines()
        return None if machines is None else sum(machine.cpus for machine in machines)

    def machines(self) -> list[Machine] | None:
        """See `RayJobs.machines`."""
        try:
            response = self.call("GET", "/nodes", params={"view": "summary"})
        except AuthError:
            raise
        except UnreachableError:
            return None
        if not response.is_success:
            return None
        nodes = (response.json().get("data") or {}).get("summary") or []
        return [machine_of(node) for node in nodes if (node.get("raylet") or {}).get("state") == "ALIVE"]

    def versions(self) -> dict[str, str]:
        """`ray` and `python` of the cluster; nothing where Ray doesn't say."""
        try:
            response = self.call("GET", "/api/v0/cluster_metadata")
            data = response.json().get("data") or {} if response.is_success else {}
        except (UnreachableError, ValueError):
            return {}
        found = {name: data.get(f"{name}Version") for name in ("ray", "python")}
        return {name: str(value) for name, value in found.items()} if all(found.values()) else {}

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request with our token.

        Raises:
            AuthError: The dashboard refuses the token.
            UnreachableError: No answer within the deadline.
        """
        try:
            response = self._http.request(method, path, headers=self._headers(), **options)
        except httpx.TransportError as error:
            raise UnreachableError(
                f"Ray doesn't answer: {error or type(error).__name__}",
                where=self._cluster.dashboard_url,
                remedy="`tandem status` shows what is up",
            ) from None
        if response.status_code in (401, 403):
            raise AuthError(
                "Ray refuses our token",
                where=self._cluster.dashboard_url,
                remedy=f"check {self._cluster.ray_token_file or 'ray_token_file in the cluster file'}",
            )
        return response

    def _headers(self) -> dict[str, str]:
        path: Path | None = self._cluster.ray_token_file
        if path is None:
            return {}
        try:
            return {"Authorization": f"Bearer {path.read_text().strip()}"}
        except OSError as error:
            raise AuthError(f"Ray's token can't be read: {error.strerror}", where=str(path)) from None


def _cut(text: str) -> str:
    """The beginning of a log, of the beginning of Ray's JSON."""
    for back in range(_ESCAPE):
        with suppress(json.JSONDecodeError):
            return str(json.loads(text[: len(text) - back] + '"}')["logs"])
    raise ValueError("no log as Ray answers with")
