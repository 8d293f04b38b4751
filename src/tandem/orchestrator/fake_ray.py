"""A Ray in memory, for tests of whatever stands on the seam `RayJobs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tandem.errors import UnreachableError
from tandem.orchestrator.ray_jobs import Log, Machine, machine_of
from tandem.orchestrator.states import Observation


@dataclass
class FakeRayJobs:
    """Submissions are PENDING until a test says otherwise with `set`.

    Attributes:
        down: Nothing answers while it is True.
        nodes: What each has, by Ray's names.
        entrypoints: Of every accepted submission, in order.
        submit_calls: Every submission id that was handed in, accepted or not.
    """

    down: bool = False
    nodes: list[dict[str, float]] = field(default_factory=lambda: [{"CPU": 4.0}])
    entrypoints: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    runtime_envs: dict[str, dict[str, Any]] = field(default_factory=dict)
    submit_calls: list[str] = field(default_factory=list)
    printed: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, Observation] = field(default_factory=dict)

    def set(self, submission_id: str, status: str, *, printed: str = "", error_type: str | None = None,
            message: str | None = None, exit_code: int | None = None) -> None:  # fmt: skip
        """Let a submission be in a status, having printed so much more."""
        self._seen[submission_id] = replace(
            self._seen.get(submission_id, Observation(status)),
            status=status, error_type=error_type, message=message, exit_code=exit_code,
        )  # fmt: skip
        self.printed[submission_id] = self.printed.get(submission_id, "") + printed

    def forget(self) -> None:
        """As a head does that was restarted without Redis."""
        self._seen.clear()

    def submit(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> None:
        """See `RayJobs.submit`."""
        self.submit_calls.append(submission_id)
        self.metadata[submission_id] = dict(metadata)
        self._check()
        if submission_id not in self._seen:
            self.entrypoints[submission_id] = entrypoint
            self.environments[submission_id] = dict(runtime_env["env_vars"])
            self.runtime_envs[submission_id] = dict(runtime_env)
            self._seen[submission_id] = Observation("PENDING")

    def observe(self, submission_id: str) -> Observation:
        """See `RayJobs.observe`."""
        return Observation("UNREACHABLE") if self.down else self._seen.get(submission_id, Observation("MISSING"))

    def stop(self, submission_id: str) -> None:
        """See `RayJobs.stop`."""
        self._check()
        if submission_id in self._seen:
            self._seen[submission_id] = Observation("STOPPED")

    def logs(self, submission_id: str) -> Log | None:
        """See `RayJobs.logs`."""
        return None if self.down else Log(self.printed.get(submission_id, ""))

    def last_lines(self, submission_id: str) -> str | None:
        """See `RayJobs.last_lines`."""
        return None if self.down else self.printed.get(submission_id, "")

    def machines(self) -> list[Machine] | None:
        """See `RayJobs.machines`."""
        return None if self.down else [machine_of({"raylet": {"resourcesTotal": node}}) for node in self.nodes]

    def _check(self) -> None:
        if self.down:
            raise UnreachableError("Ray doesn't answer")
