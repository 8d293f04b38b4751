"""What a job asks of the cluster: which workers, what each reserves, and by what they speak with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tandem.errors import InputError
from tandem.specs.finetune import FinetuneSpec

if TYPE_CHECKING:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig

RESIZE_CHECK_S = 60.0  # how often an elastic run looks whether nodes have come; a resize costs a start
_TYPE = "accelerator_type:"  # what Ray calls the resource by which a node says which GPUs it has

Resources = Mapping[str, float]  # of a node or a worker, as Ray counts them


def gpus_of_each(spec: FinetuneSpec, nodes: Sequence[Resources], grows_to: Resources) -> float:
    """The GPUs per worker; what the spec leaves open is 1 where the cluster has GPUs.

    Args:
        spec: The job.
        nodes: What each node that is alive has.
        grows_to: What the cluster may come to have, by Ray's autoscaler.

    Raises:
        InputError: The cluster can never give what the job asks for.
    """
    gpus = spec.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if spec.accelerator_type or any(node.get("GPU", 0) for node in nodes) else 0.0
    usable, of_type, grown = nodes, "", dict(grows_to)
    if spec.accelerator_type is not None:
        usable = [node for node in nodes if node.get(_TYPE + spec.accelerator_type, 0)]
        of_type = f" on machines with {spec.accelerator_type}"
        grown["GPU"] = grows_to.get(f"GPU:{spec.accelerator_type}", 0)
        if not usable and not grown["GPU"]:
            there = sorted({key.removeprefix(_TYPE) for node in nodes for key in node if key.startswith(_TYPE)})
            raise InputError(
                f"no machine of the cluster has {spec.accelerator_type}: it has {', '.join(there) or 'no GPUs'}",
                where=f"job {spec.name}: accelerator_type",
                remedy="leave it out to take any GPU, or add such machines to the cluster",
            )
    for kind, each, field in (("CPU", spec.cpus_per_worker, "cpus_per_worker"), ("GPU", gpus, "gpus_per_worker")):
        total = max(sum(node.get(kind, 0) for node in usable), grown.get(kind, 0))
        if each * spec.min_workers > total:
            raise InputError(
                f"{spec.min_workers} workers with {each:g} {kind}s each, and the cluster has {total:g}{of_type}",
                where=f"job {spec.name}: workers, {field}",
                remedy="lower one of them, or add machines to the cluster",
            )
    return float(gpus)


def scaling_config(spec: FinetuneSpec, gpus: float) -> ScalingConfig:
    """The workers, as Ray Train is asked for them.

    Args:
        spec: The job.
        gpus: Per worker.
    """
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=spec.workers,
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": spec.cpus_per_worker} | ({"GPU": gpus} if gpus else {}),
        accelerator_type=spec.accelerator_type,
        elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
    )


def torch_config(gpus: float) -> TorchConfig:
    """The process group: nccl between GPUs, gloo between processors.

    Args:
        gpus: Per worker.
    """
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="nccl" if gpus else "gloo")
