"""What `tandem plan` says of a fine-tuning job's memory: parts, whether it fits, and the cheapest setting that does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandem.orchestrator.ray_jobs import Machine
    from tandem.specs.finetune import FinetuneSpec
    from tandem.training.methods.memory import Estimate, ModelShape, Settings

ROOM = 0.9  # of the memory: fragmentation, and what else a machine does
GIB = 2**30


def plan_memory(spec: FinetuneSpec, storage: Path, machines: Sequence[Machine] | None) -> dict[str, str]:
    """Lines for the plan.

    Args:
        spec: The job, its paths absolute.
        storage: Where `artifact:` URIs are looked up.
        machines: Of the cluster; None where none answers.
    """
    from tandem.config.machine import computes_bf16, read_processor
    from tandem.errors import TandemError
    from tandem.training.methods.deepspeed import Hardware, build_config, combination, read_plain
    from tandem.training.methods.memory import estimate, settings_of
    from tandem.training.methods.model_shape import read_shape

    try:
        config = model_config(spec.model, storage)
        if isinstance(config, str):
            return {"memory per worker": config}
        shape = read_shape(config, spec)
        gpus = bool(machines and any(machine.gpus for machine in machines))
        cuda = (gpus if spec.gpus_per_worker is None else spec.gpus_per_worker > 0) or spec.method == "qlora"
        cuda = cuda or spec.accelerator_type is not None
        # This machine's processor stands for the workers'; GPUs are taken for such as compute in bf16.
        hardware = Hardware(cuda=cuda, bf16=cuda or computes_bf16(read_processor(), cuda=False))
        built = build_config(spec.with_workers(spec.min_workers), read_plain(spec), hardware)
    except TandemError as error:
        return {"memory per worker": f"unknown: {error}"}
    zero = built["zero_optimization"]
    decided = combination(spec, built, hardware)
    settings = settings_of(
        decided | {"precision": decided["precision"] or "fp32"},
        workers=spec.min_workers,
        micro_batch_size=spec.schedule.micro_batch_size,
        max_length=spec.schedule.max_length,
        gradient_checkpointing=spec.gradient_checkpointing,
        bucket=int(zero.get("reduce_bucket_size", 500_000_000)),
        overlap=bool(zero.get("overlap_comm")),
        fused=cuda,
    )
    needed = estimate(shape, settings)
    trained = shape.adapter or shape.parameters
    facts = {
        "parameters": f"{shape.parameters:,}; {trained:,} trained ({spec.method}, {settings.precision})",
        "memory per worker": _parts(needed),
    }
    room = find_room(machines, cuda=cuda, workers=spec.min_workers, gpus_per_worker=spec.gpus_per_worker)
    if isinstance(room, str):
        return facts | {"fits": room}
    if room.takes(needed):
        return facts | {"fits": f"yes: {_gib(needed.total)} of {room.said}"}
    facts["fits"] = f"no: {_gib(needed.total)} of {room.said}"
    return facts | {"proposal": propose(shape, settings, spec, room, cuda=cuda)}


def length_problem(spec: FinetuneSpec, storage: Path) -> str | None:
    """What is wrong with `schedule.max_length` for this model, as far as its config.json is at hand.

    Args:
        spec: The job, its paths absolute.
        storage: Where `artifact:` URIs are looked up.
    """
    from tandem.errors import ModelError, TandemError
    from tandem.training.methods.positions import check_max_length, read_config

    try:
        path = model_config(spec.model, storage)
        if isinstance(path, str):
            return None
        config = read_config(path)
    except TandemError:
        return None  # what the plan says of memory names it
    try:
        check_max_length(spec, config)
    except ModelError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Room:
    """What a worker may take.

    Attributes:
        device: Bytes where it computes.
        host: Bytes of the machine's memory, for what is offloaded.
        said: The first in words.
    """

    device: int
    host: int
    said: str

    def takes(self, needed: Estimate) -> bool:
        """Whether a worker fits."""
        return needed.total <= self.device * ROOM and needed.host <= self.host * ROOM


def propose(shape: ModelShape, settings: Settings, spec: FinetuneSpec, room: Room, *, cuda: bool) -> str:
    """The cheapest setting that fits: the first of `ladder`, in words that can be given to the command line."""
    from tandem.training.methods.memory import estimate

    for candidate in ladder(settings, batch_size=spec.schedule.batch_size, cuda=cuda):
        needed = estimate(shape, candidate)
        if room.takes(needed):
            host = f", and {_gib(needed.host)} of the machine's memory" if needed.host else ""
            return f"{_overrides(candidate, settings)}: {_gib(needed.total)} per worker{host}"
    smaller = {"full": "method=lora", "lora": "method=qlora on GPUs", "qlora": "a shorter schedule.max_length"}
    return (
        f"no ZeRO stage, checkpointing or offload is enough: {smaller[spec.method]}, a smaller model, or more workers"
    )


def ladder(settings: Settings, *, batch_size: int, cuda: bool) -> Iterator[Settings]:
    """Settings from the fastest to the slowest, the same method, precision and global batch.

    ZeRO 2 communicates as plain data parallelism does (arXiv 1910.02054, section 7), smaller micro-batches use the
    device less well, checkpointing computes a third more, ZeRO 3 communicates half as much again, offload waits for the
    bus.

    Args:
        settings: What was asked for.
        batch_size: Rows per optimizer step, over all workers.
        cuda: Whether there is a GPU to offload from.
    """
    from tandem.specs.combinations import refusals

    micros = [
        settings.micro_batch_size >> halvings
        for halvings in range(settings.micro_batch_size.bit_length())
        if batch_size % ((settings.micro_batch_size >> halvings) * settings.workers) == 0
    ]
    for stage, optimizer, param in ((2, "none", "none"), (3, "none", "none"), (2, "cpu", "none"), (3, "cpu", "cpu")):
        combined: dict[str, str | int | None] = {
            "method": settings.method,
            "stage": stage,
            "offload_optimizer": optimizer,
            "offload_param": param,
            "precision": settings.precision,
            "device": "gpu" if cuda else "cpu",
        }
        if refusals(combined):
            continue
        for checkpointing in (False, True):
            for micro in micros:
                yield replace(
                    settings,
                    stage=stage,
                    offload_optimizer=optimizer,
                    offload_param=param,
                    gradient_checkpointing=checkpointing or settings.gradient_checkpointing,
                    micro_batch_size=micro,
                )


def model_config(uri: str, storage: Path) -> Path | str:
    """The model's config.json, or why it isn't known: weights are never downloaded for an estimate."""
    from tandem.artifacts.uris import cached, hub_file
    from tandem.models.loading import converted_path

    path = hub_file(uri, "config.json") if uri.startswith("hf:") else cached(uri, storage=storage)
    if path is not None and path.suffix == ".gguf":
        path = converted_path(path)
    if path is not None and path.is_dir():
        path /= "config.json"
    if path is None or not path.is_file():
        return "unknown: it needs the model's config.json, which is here after the first job with this model"
    try:
        adapter = "base_model_name_or_path" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return f"unknown: {path} isn't JSON"
    return "unknown: the model is an adapter" if adapter else path


def find_room(
    machines: Sequence[Machine] | None, *, cuda: bool, workers: int, gpus_per_worker: float | None
) -> Room | str:
    """What each of the workers may take, spread evenly over the machines; or why that isn't known."""
    if machines is None:
        return "unknown: no cluster answers"
    hosts = [machine for machine in machines if machine.gpus] if cuda else list(machines)
    if not hosts or not all(machine.memory for machine in hosts):
        return "unknown: the cluster has no GPU" if cuda else "unknown: the cluster doesn't say what memory it has"
    each = ceil(workers / len(hosts))
    smallest = min(machine.memory for machine in hosts)
    if not cuda:
        said = f"{_gib(smallest // each)} ({each} on a machine of {_gib(smallest)})"
        return Room(smallest // each, smallest // each, said)
    if not all(machine.gpu_memory for machine in hosts):
        return "unknown: the cluster doesn't say what memory its GPUs have"
    gpu = min(machine.gpu_memory for machine in hosts)
    share = min(1.0, gpus_per_worker or 1.0)
    said = f"{_gib(int(gpu * share))} of the smallest GPU"
    return Room(int(gpu * share), smallest // each, said)


def _parts(needed: Estimate) -> str:
    named = {
        "process": needed.process,
        "weights": needed.weights,
        "gradients": needed.gradients,
        "optimizer": needed.optimizer,
        "activations": needed.activations,
        "logits, at most": needed.logits,
        "buckets": needed.buckets,
        "in the step, in place of activations, logits and buckets": needed.step,
        "in the machine's memory": needed.host,
        "on NVMe": needed.disk,
    }
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in named.items() if size)
    return f"{_gib(needed.total)} estimated: {parts}"


def _overrides(candidate: Settings, asked: Settings) -> str:
    named = {
        "deepspeed": (candidate.stage, asked.stage),
        "schedule.micro_batch_size": (candidate.micro_batch_size, asked.micro_batch_size),
        "gradient_checkpointing": (candidate.gradient_checkpointing, asked.gradient_checkpointing),
        "offload.optimizer": (candidate.offload_optimizer, asked.offload_optimizer),
        "offload.param": (candidate.offload_param, asked.offload_param),
    }
    return " ".join(f"{key}={str(new).lower()}" for key, (new, old) in named.items() if new != old)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
