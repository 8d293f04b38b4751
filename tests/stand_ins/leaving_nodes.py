"""`leaving_nodes.py FOLDER`: a finetune job on a Ray cluster of its own, whose nodes leave and join while it runs.

FOLDER has spec.json, of a job on one or two workers with checkpoints every `EVERY` steps; it gets story.json. Each node
has room for one worker. Workers do as many steps as they are let, so that every node goes where it should:

    step  8   a node is killed: its raylet gets SIGKILL
    step 13   a node joins
    step 17   Ray is told to drain that node, as it is when a cloud takes a machine back; what is saved is waited for,
              then the node is killed
    to the end; and once more on one worker, disturbed by nobody
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.config.files import write_whole
from tandem.retrieval.actor import NAMESPACE
from tandem.specs.finetune import FinetuneSpec
from tandem.training import job, metrics, scaling
from tandem.training.artifact import METRICS
from tandem.training.checkpoints.store import checkpoint_folder, incomplete

EVERY = 5
DEADLINE_S = 720  # of all
NOTICE_S = 30  # between the notice and the machine's end
POLL_S = 0.05
# What Ray does in a minute is done in seconds here.
QUICK = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
}
RESIZE_CHECK_S = 2.0


def holding_back(limit: Path) -> Callable[[], None]:
    """What each of Ray's processes does first: its training goes no further than the step that the file names.

    A worker that was told that a machine goes away does one step more.
    """

    def hold_back() -> None:
        from tandem.training import group, worker

        group.ASK_EVERY_S = 0.0  # at every step
        train_step = worker.train_step

        def held(this: Any, config: Any, data: Any, batch: Any, step: int) -> Any:
            from ray.train.v2._internal.execution.context import get_train_context

            while step >= (let := int(limit.read_text())):
                if step == let and get_train_context().preemption_context.preemption_info is not None:
                    break
                threading.Event().wait(POLL_S)
            return train_step(this, config, data, batch, step)

        worker.train_step = held

    return hold_back


class Story:
    """What happens to the nodes, by what the job's folder shows.

    Args:
        nodes: Ray's cluster, with two nodes beside its head.
        folder: The job's.
        limit: The file that says how far training may go.
    """

    def __init__(self, nodes: Any, folder: Path, limit: Path) -> None:
        self._nodes = nodes
        self._folder = folder
        self._limit = limit
        self._ends = time.monotonic() + DEADLINE_S
        self._began = time.monotonic()

    def tell(self, steps: int) -> dict[str, Any]:
        """Until the last step is allowed; training goes on to its end whatever goes wrong here."""
        try:
            return self._tell()
        finally:
            write_whole(self._limit, str(steps))

    def _tell(self) -> dict[str, Any]:
        first = next(iter(self._nodes.worker_nodes))
        self._wait(lambda: self._started(1) and self._saved(5) and self._done(8), "step 8 on two workers")
        self._nodes.remove_node(first, allow_graceful=False)

        self._wait(lambda: self._started(2), "a start without the killed node")
        write_whole(self._limit, "13")
        self._wait(lambda: self._saved(10) and self._done(13), "step 13")
        joined = self._nodes.add_node(num_cpus=1)

        self._wait(lambda: self._started(3), "a start with the new node")
        write_whole(self._limit, "17")
        self._wait(lambda: self._saved(15) and self._done(17), "step 17")
        leaves_at_ms = int((time.time() + NOTICE_S) * 1000)
        self._drain(joined.node_id, leaves_at_ms)
        self._wait(lambda: self._saved(18), "a checkpoint of step 18")
        saved_at_ms = int(time.time() * 1000)
        self._nodes.remove_node(joined, allow_graceful=False)
        self._wait(lambda: self._started(4), "a start without the drained node")
        return {"saved_ms_before": leaves_at_ms - saved_at_ms}

    def _drain(self, node: str, leaves_at_ms: int) -> None:
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        client = GcsClient(address=self._nodes.address)
        accepted, why = client.drain_node(node, reason, "the cloud takes it back", leaves_at_ms)
        assert accepted, why

    def _started(self, times: int) -> bool:
        return len(metrics.starts(metrics.read(self._folder / METRICS))) >= times

    def _done(self, step: int) -> bool:
        done = metrics.steps(metrics.read(self._folder / METRICS))
        return bool(done) and done[-1]["step"] == step

    def _saved(self, step: int) -> bool:
        return incomplete(checkpoint_folder(self._folder / job.CHECKPOINTS, step)) is None

    def _wait(self, reached: Callable[[], Any], what: str) -> None:
        while not reached():
            if time.monotonic() > self._ends:
                raise TimeoutError(f"no {what}")
            threading.Event().wait(POLL_S)
        print(f"{time.monotonic() - self._began:.1f} s: {what}", flush=True)


def look_for_nodes(ended: threading.Event) -> None:
    """Ray looks for nodes that came or went every 20 seconds, and when it is asked to."""
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    coordinator = get_or_create_autoscaling_coordinator()
    while not ended.wait(1):
        coordinator.get_reserved_resources.remote("nobody", recompute=True)


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in metrics.steps(metrics.read(folder / METRICS))]


def main(folder: Path) -> None:
    # Else Ray would note this cluster, for whoever looks for one, where others on the machine note theirs.
    os.environ.update(QUICK | {"RAY_TMPDIR": str(folder)})
    import ray
    from ray.cluster_utils import Cluster as Nodes

    scaling.RESIZE_CHECK_S = RESIZE_CHECK_S
    spec = FinetuneSpec.model_validate(json.loads((folder / "spec.json").read_text()))
    steps = spec.schedule.max_steps or 0
    limit = folder / "limit"
    write_whole(limit, "8")
    head = {"num_cpus": 0, "include_dashboard": False}  # no worker beside the head, which stays
    nodes = Nodes(initialize_head=True, head_node_args=head)
    ended = threading.Event()
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1)
        environment = {"worker_process_setup_hook": holding_back(limit)}
        ray.init(address=nodes.address, namespace=NAMESPACE, runtime_env=environment)
        cluster = Cluster(
            storage=folder,
            ray_address=nodes.address,
            dashboard_url="http://127.0.0.1:1",
            server_url="http://127.0.0.1:1",
            endpoint_url="http://127.0.0.1:1",
            database_url=f"sqlite:///{folder / 'tandem.db'}",
            mlflow_uri=f"sqlite:///{folder / 'mlflow.db'}",
            api_key_file=folder / "api-key",
            local=False,  # so that notices are watched for
        )

        def context(id: str) -> JobContext:
            place = folder / "jobs" / id
            place.mkdir(parents=True)
            return JobContext(id, spec.name, place, folder, cluster)

        disturbed, alone = context("disturbed"), context("alone")
        with ThreadPoolExecutor(2) as pool:
            looking = pool.submit(look_for_nodes, ended)
            running = pool.submit(job.run, spec, disturbed)  # Ray starts nodes from the main thread alone
            try:
                story = Story(nodes, disturbed.dir, limit).tell(steps)
                story["result"] = running.result()
                print("the job has ended", flush=True)
                job.run(spec.with_workers(1), alone)
            finally:
                ended.set()
            looking.result()
        starts = metrics.starts(metrics.read(disturbed.dir / METRICS))
        story |= {"starts": starts, "losses": losses(disturbed.dir), "alone": losses(alone.dir)}
        write_whole(folder / "story.json", json.dumps(story))
    finally:
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
