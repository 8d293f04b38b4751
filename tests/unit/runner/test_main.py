"""However a job ends, its folder says how, and the exit status says whose fault it was."""

from __future__ import annotations

import errno
import json
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tandem.config.cluster import Cluster
from tandem.errors import DataError, StoreError, WorkerLostError
from tandem.orchestrator.states import RETRIES, Observation, Reason, ending
from tandem.runner import __main__ as runner
from tandem.runner import claim as claim_module


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    storage = tmp_path / "storage"
    folder = storage / "jobs" / "docs-1"
    folder.mkdir(parents=True)
    urls = dict.fromkeys(
        ("ray_address", "dashboard_url", "server_url", "endpoint_url", "database_url", "mlflow_uri"), ""
    )
    Cluster(storage=storage, api_key_file=storage / "api-key", **urls).save()
    monkeypatch.setenv("TANDEM_STORAGE", str(storage))
    (folder / "spec.json").write_text(json.dumps({"kind": "index", "name": "docs", "sources": [{"uri": "x"}]}))
    return folder


def ends_with(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    def run(spec: object, context: object) -> dict[str, Any]:
        if isinstance(outcome, BaseException):
            raise outcome
        return dict(outcome)

    monkeypatch.setattr(runner, "run", run)


def test_result_is_written(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job / "error.json").write_text("{}")  # of an earlier attempt
    ends_with(monkeypatch, {"documents": 3})
    assert runner.main([str(job)]) == 0
    assert json.loads((job / "result.json").read_text()) == {"documents": 3}
    assert not (job / "error.json").exists()


@pytest.mark.parametrize(("outcome", "stays"), [({"steps": 3}, False), (StoreError("lost"), True)])
def test_what_another_attempt_would_go_on_from_goes_once_there_is_a_result(
    job: Path, monkeypatch: pytest.MonkeyPatch, outcome: Any, stays: bool
) -> None:
    (job / "train" / "step-000004").mkdir(parents=True)
    (job / "train-examples").mkdir()
    (job / "prepared.json").write_text("{}")
    (job / "metrics.jsonl").write_text("{}\n")
    ends_with(monkeypatch, outcome)
    runner.main([str(job)])
    for name in ("train", "train-examples", "prepared.json"):
        assert (job / name).exists() == stays, name
    assert (job / "metrics.jsonl").exists()


class Wrapped(Exception):
    """As Ray wraps a worker's exception."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("wrapped")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (DataError("bad", where="a.jsonl", remedy="mend it"), 2, "DataError"),
        (Wrapped(DataError("bad", where="a.jsonl", remedy="mend it")), 2, "DataError"),
        (StoreError("lost"), 1, "StoreError"),
        (ValueError("odd"), 1, "ValueError"),
    ],
)
def test_error_is_written(
    job: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, type_: str
) -> None:
    ends_with(monkeypatch, error)
    assert runner.main([str(job)]) == status
    written = json.loads((job / "error.json").read_text())
    assert written["type"] == type_
    assert not (job / "result.json").exists()
    if status == 2:
        assert (written["what"], written["where"], written["remedy"]) == ("bad", "a.jsonl", "mend it")


def workers(failures: Mapping[int, Exception]) -> Exception:
    from ray.train.v2.api.exceptions import WorkerGroupError

    return WorkerGroupError("Training failed", dict(failures))


def unhealthy(failure: Exception) -> Exception:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerHealthCheckFailedError("A worker health check failed.", failure)


def controller(kind: str, *arguments: Any) -> Exception:
    from ray.train.v2._internal import exceptions
    from ray.train.v2.api.exceptions import ControllerError

    return ControllerError(getattr(exceptions, kind)(*arguments))


def ray_error(kind: str, *arguments: Any) -> Exception:
    import ray.exceptions

    error: Exception = getattr(ray.exceptions, kind)(*arguments)
    return error


def silent() -> Exception:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    return WorkerHealthCheckTimeoutError("hanging")


def preempted() -> Exception:
    from ray.train.v2.api.exceptions import PreemptionError
    from ray.train.v2.api.preemption import PreemptionInfo

    return PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [1]}))


BAD = DataError("bad", where="a.jsonl", remedy="mend it")


@pytest.mark.parametrize(
    ("error", "reason", "what"),
    [
        (lambda: workers({1: unhealthy(ray_error("ActorDiedError"))}), Reason.NODE_LOST, "The actor died"),
        (
            lambda: workers({0: RuntimeError("odd"), 1: unhealthy(ray_error("NodeDiedError", "gone"))}),
            Reason.NODE_LOST,
            "",
        ),
        (lambda: workers({1: silent()}), Reason.NODE_LOST, "hanging"),
        (lambda: workers({0: WorkerLostError("another is gone")}), Reason.NODE_LOST, "another is gone"),
        (lambda: controller("WorkerGroupStartupTimeoutError", 2), Reason.NODE_LOST, "startup timed out"),
        (lambda: controller("WorkerGroupStartupFailedError", "no start"), Reason.NODE_LOST, "no start"),
        (lambda: controller("InsufficientClusterResourcesError", "too few"), Reason.NODE_LOST, "too few"),
        (preempted, Reason.NODE_LOST, "preemption"),
        (lambda: workers({0: ValueError("odd"), 1: ValueError("odd")}), Reason.JOB_ERROR, "ValueError: odd"),
        (lambda: workers({1: unhealthy(TypeError("can't pickle"))}), Reason.JOB_ERROR, "TypeError: can't pickle"),
        (lambda: controller("CheckpointManagerInitializationError", "old"), Reason.JOB_ERROR, "old"),
        (lambda: workers({0: RuntimeError("odd"), 1: BAD}), Reason.USER_ERROR, "bad"),
        (lambda: workers({0: unhealthy(ray_error("ActorDiedError")), 1: BAD}), Reason.USER_ERROR, "bad"),
        (lambda: workers({1: unhealthy(ray_error("OutOfMemoryError", "full"))}), Reason.OUT_OF_MEMORY, "full"),
    ],
)
def test_out_of_ray_trains_wrappers_comes_what_decides_on_another_attempt(
    job: Path, monkeypatch: pytest.MonkeyPatch, error: Any, reason: Reason, what: str
) -> None:
    ends_with(monkeypatch, pickle.loads(pickle.dumps(error())))  # as it comes from the controller
    status = runner.main([str(job)])
    written = json.loads((job / "error.json").read_text())
    assert what in written["what"]
    assert ending(Observation("FAILED", exit_code=status, error=written))[1] == reason
    assert (RETRIES[reason] is not None) == (reason == Reason.NODE_LOST)


def test_broken_spec_is_an_error_too(job: Path) -> None:
    (job / "spec.json").write_text("{")
    assert runner.main([str(job)]) == 1
    assert "JSONDecodeError" in (job / "error.json").read_text()


def claims(job: Path, monkeypatch: pytest.MonkeyPatch, attempt: str, wanted: str | None) -> int:
    if wanted is not None:
        (job / "attempt").write_text(wanted)
    monkeypatch.setenv("TANDEM_ATTEMPT", attempt)
    return runner.main([str(job)])


def test_an_attempt_has_one_driver(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(monkeypatch, {"documents": 3})
    assert claims(job, monkeypatch, "1", "1") == 0
    (job / "result.json").unlink()
    # Ray has forgotten it and starts it again.
    assert claims(job, monkeypatch, "1", "1") == 75
    assert claims(job, monkeypatch, "2", "2") == 0


@pytest.mark.parametrize("wanted", [None, "2"])
def test_a_driver_whose_attempt_is_over_does_nothing(
    job: Path, monkeypatch: pytest.MonkeyPatch, wanted: str | None
) -> None:
    (job / "result.json").write_text("{}")  # of the attempt that is
    ends_with(monkeypatch, AssertionError("it ran"))
    assert claims(job, monkeypatch, "1", wanted) == 75
    assert (job / "result.json").exists()
    assert not (job / "error.json").exists()


def test_a_driver_that_another_attempt_has_replaced_writes_no_result(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(spec: object, context: object) -> dict[str, Any]:
        (job / "attempt").write_text("2")
        return {}

    monkeypatch.setattr(runner, "run", run)
    assert claims(job, monkeypatch, "1", "1") == 75
    assert not (job / "result.json").exists()


def test_nobody_looks_any_more_when_the_job_has_ended(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(monkeypatch, {})
    assert claims(job, monkeypatch, "1", "1") == 0
    looking = [thread for thread in threading.enumerate() if thread.name == "claim"]
    for thread in looking:
        thread.join(20)
    assert not any(thread.is_alive() for thread in looking)


def test_a_driver_looks_all_the_time_whether_it_may_work(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "LOOK_EVERY_S", 0.001)
    ended = threading.Event()
    (job / "attempt").write_text("1")
    over = claim_module.watch(job, "1", ended.set)
    # A storage folder that is away for the moment says nothing.
    job.rename(job.with_name("away"))
    assert not ended.wait(0.05)
    job.with_name("away").rename(job)
    (job / "attempt").write_text("2")
    assert ended.wait(20)
    over.set()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "/s/a"), Wrapped(OSError(122, "x"))]
)
def test_a_full_disk_is_told_apart(job: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    ends_with(monkeypatch, error)
    assert runner.main([str(job)]) == 1
    said = json.loads((job / "error.json").read_text())
    assert (said["type"], said["remedy"]) == ("DiskFullError", "make room under the storage folder")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # Not even that can be written.
    monkeypatch.setattr(runner, "write_whole", full)
    assert runner.main([str(job)]) == 74


def test_each_attempt_says_what_it_ran_on(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_with(monkeypatch, StoreError("lost"))
    for attempt in ("1", "2"):
        assert claims(job, monkeypatch, attempt, attempt) == 1
    first, second = (json.loads((job / f"environment-{attempt}.json").read_text()) for attempt in (1, 2))
    assert first == second
    assert {"tandem", "python", "ray", "torch", "host", "dir"} <= set(first)
