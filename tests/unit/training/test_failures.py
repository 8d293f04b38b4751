from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray.exceptions
import torch

from tandem.errors import DivergedError, ModelError, OutOfMemoryError, PreemptedError, WorkerLostError
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.states import RETRIES, Observation, Reason, State, ending
from tandem.training.failures import (
    fit,
    held_memory,
    memory_watch,
    out_of_memory,
    read_failure,
    recorded,
    write_failure,
)


def exhaust_memory() -> None:
    torch.empty(10**15)


def exhaust_python() -> None:
    bytearray(10**16)


def run(train: object, folder: Path, worker: int = 0) -> None:
    recorded(train, folder, worker=worker, cuda=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("exhaust", [exhaust_memory, exhaust_python])
def test_memory_that_ran_out_names_the_worker_how_much_and_what_to_change(tmp_path: Path, exhaust: object) -> None:
    with pytest.raises(OutOfMemoryError):
        run(exhaust, tmp_path, worker=1)
    error = read_failure(tmp_path)
    assert isinstance(error, OutOfMemoryError)
    assert error.what.startswith("worker 1 ran out of memory (")
    assert "GiB" in error.what
    assert error.remedy is not None
    assert "micro_batch_size" in error.remedy


def test_what_a_gpu_says_of_its_memory_is_told() -> None:
    raised = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")
    error = out_of_memory(raised, worker=3, measured="70.1 of 79.1 GiB at its peak")
    assert error is not None
    told = "worker 3 ran out of GPU memory (70.1 of 79.1 GiB at its peak): CUDA out of memory. Tried to allocate 20.00"
    assert error.what == f"{told} GiB."


def test_a_worker_that_rays_memory_monitor_killed_is_told_by_the_controller(tmp_path: Path) -> None:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    killed = ray.exceptions.OutOfMemoryError("Memory on the node (IP: 10.0.0.1) was 15.2GB / 16.0GB (0.95)")
    lost = ray.exceptions.ActorDiedError()
    watch = memory_watch(tmp_path)
    watch.after_exception(None, {0: WorkerHealthCheckFailedError("failed", failure=lost)})
    assert read_failure(tmp_path) is None
    watch.after_exception(None, {1: WorkerHealthCheckFailedError("failed", failure=killed)})
    error = read_failure(tmp_path)
    assert isinstance(error, OutOfMemoryError)
    assert "worker 1 was killed since its machine ran out of memory: Memory on the node" in error.what


def killed() -> ray.exceptions.ActorDiedError:
    """As Ray has it of an actor that got SIGKILL."""
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    message = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: …"
    )
    context = ActorDiedErrorContext(
        class_name="RayTrainWorker", actor_id=b"\0" * 16, node_ip_address="10.0.0.7", error_message=message
    )
    return ray.exceptions.ActorDiedError(context)


def fail_with(error: Exception) -> None:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    failures = {0: RuntimeError("Connection closed by peer"), 1: WorkerHealthCheckFailedError("failed", failure=error)}
    raise WorkerGroupError("Training failed due to worker errors", worker_failures=failures)


def test_a_worker_that_was_killed_without_a_word_may_have_met_the_kernels_oom_killer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WorkerLostError) as caught:
        fit(lambda: fail_with(killed()), tmp_path)
    told = str(caught.value)
    assert told.startswith("machine 10.0.0.7: worker 1 was killed (SIGKILL, or a crash)")
    assert "OOM killer is the usual cause: `dmesg -T | grep -i 'killed process'`" in told
    assert "micro_batch_size" in told
    # While the workers are still started again it is in the log.
    memory_watch(tmp_path).after_exception(None, {1: killed()})
    assert capsys.readouterr().out.strip() == told
    assert read_failure(tmp_path) is None


def test_a_worker_whose_machine_is_gone_met_no_oom_killer(tmp_path: Path) -> None:
    from ray.train import TrainingFailedError

    with pytest.raises(TrainingFailedError):
        fit(lambda: fail_with(ray.exceptions.ActorDiedError()), tmp_path)


def test_what_a_worker_wrote_down_is_raised_when_ray_train_thinks_that_it_is_done(tmp_path: Path) -> None:
    fit(lambda: None, tmp_path)
    write_failure(tmp_path, DivergedError("the loss is nan"))
    with pytest.raises(DivergedError, match="the loss is nan"):
        fit(lambda: None, tmp_path)


def test_it_ends_the_job_as_out_of_memory_and_nothing_tries_again(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError):
        run(exhaust_memory, tmp_path)
    tried: list[int] = []
    run(lambda: tried.append(1), tmp_path)
    assert not tried
    error = read_failure(tmp_path)
    seen = Observation("FAILED", error={"type": type(error).__name__, "what": str(error)})
    state, reason, _ = ending(seen)
    assert (state, reason, RETRIES[reason]) == (State.FAILED, Reason.OUT_OF_MEMORY, None)


def test_a_broken_loss_ends_the_workers_quietly_and_the_first_one_writes(tmp_path: Path) -> None:
    def diverge() -> None:
        raise DivergedError("the loss is nan", where="batch.json", remedy="look")

    run(diverge, tmp_path, worker=1)
    assert read_failure(tmp_path) is None
    run(diverge, tmp_path, worker=0)
    error = read_failure(tmp_path)
    assert isinstance(error, DivergedError)
    assert str(error) == "batch.json: the loss is nan (look)"
    assert ending(Observation("FAILED", error={"type": "DivergedError", "what": "x"}))[1] == Reason.USER_ERROR


def test_a_job_that_steps_aside_ends_its_workers_quietly_and_its_driver_says_so(tmp_path: Path) -> None:
    def step_aside() -> None:
        raise PreemptedError("stepped aside after step 3 of 9, which is stored")

    run(step_aside, tmp_path, worker=1)
    assert read_failure(tmp_path) is None
    run(step_aside, tmp_path, worker=0)
    with pytest.raises(PreemptedError, match="after step 3 of 9") as raised:
        fit(lambda: None, tmp_path)
    seen = Observation("FAILED", exit_code=1, error={"type": type(raised.value).__name__, "what": raised.value.what})
    assert ending(seen)[1] == Reason.PREEMPTED


def test_a_job_whose_workers_fail_has_none_until_others_start(tmp_path: Path) -> None:
    files = JobFiles(tmp_path)
    (tmp_path / "progress.json").write_text(json.dumps({"phase": "train", "done": 3}))
    assert files.phase() == "train"
    memory_watch(tmp_path).after_exception(None, {0: RuntimeError("odd")})
    assert files.phase() == "workers"


def test_what_a_person_must_mend_is_not_tried_again(tmp_path: Path) -> None:
    def refuse() -> None:
        raise ModelError("not this one", remedy="another")

    with pytest.raises(ModelError):
        run(refuse, tmp_path, worker=1)
    assert isinstance(read_failure(tmp_path), ModelError)
    tried: list[int] = []
    run(lambda: tried.append(1), tmp_path)
    assert not tried


def test_the_first_failure_stays_and_other_errors_are_nobodys_but_rays(tmp_path: Path) -> None:
    write_failure(tmp_path, DivergedError("first"))
    write_failure(tmp_path, DivergedError("second"))
    assert str(read_failure(tmp_path)) == "first"

    def broken() -> None:
        raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match="odd"):
        run(broken, tmp_path / "other")
    assert read_failure(tmp_path / "other") is None


def test_a_worker_that_is_left_alone_says_so_and_another_attempt_is_made(tmp_path: Path) -> None:
    def left() -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242")

    with pytest.raises(WorkerLostError, match="worker 1 lost its connection to another") as caught:
        run(left, tmp_path, worker=1)
    assert read_failure(tmp_path) is None
    seen = Observation("FAILED", error={"type": type(caught.value).__name__, "what": caught.value.what})
    assert RETRIES[ending(seen)[1]] is not None


def test_the_memory_that_a_worker_holds_is_said_in_gib() -> None:
    assert "of the machine's" in held_memory(cuda=False)
