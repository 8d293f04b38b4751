"""Where the arms are asked: a job's driver holds no GPU, and may be on a machine that has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tandem.config.cluster import Cluster
from tandem.evaluation.figures.costs import Machine, this_machine

T = TypeVar("T")
Place = Callable[[Callable[..., T]], Callable[..., T]]

# What the task holds: the queue counts a comparison as this much (`orchestrator.resources`).
HELD = Machine(cpus=1.0, gpus=1.0)


def has_gpus(cluster: Cluster) -> bool:
    """Whether the cluster has GPUs, or may come to have some; joins its Ray.

    Raises:
        UnreachableError: It can't be joined.
    """
    import ray

    from tandem.retrieval.actor import join_ray

    join_ray(cluster)
    return bool(ray.cluster_resources().get("GPU") or cluster.grows_to.get("GPU"))


def where_gpus_are(work: Callable[..., T], cluster: Cluster) -> Callable[..., T]:
    """The same work, done where engines compute: here, or on a cluster with GPUs in a task of Ray's that holds one.

    Args:
        work: What it takes and gives must survive pickling, and the folders it uses must be seen by all machines.
        cluster: Whose GPUs.
    """
    if not has_gpus(cluster):
        return work
    return in_a_task(work, {"num_cpus": HELD.cpus, "num_gpus": HELD.gpus})


def in_a_task(work: Callable[..., T], held: Mapping[str, float]) -> Callable[..., T]:
    """The same work, done in a task of Ray's; this process must have joined it.

    What is raised there is raised here as it was. A task whose machine is lost fails the attempt, and the next one goes
    on with the answers that are there: so Ray itself doesn't try again.

    Args:
        work: See `where_gpus_are`.
        held: What the task holds, as Ray's options.
    """

    def placed(*arguments: Any) -> T:
        import ray

        try:
            done: T = ray.get(ray.remote(max_retries=0, **held)(work).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return done

    return placed


def machine_of(cluster: Cluster) -> Machine:
    """What answers: see `where_gpus_are`."""
    return HELD if has_gpus(cluster) else this_machine()
