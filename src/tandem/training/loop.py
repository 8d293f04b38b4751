"""One step and one evaluation, and what each worker needs for them: its place, its task, a DeepSpeed engine."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.config.light_imports import skip_scipy
from tandem.config.machine import cores
from tandem.training.data.packing import attend_per_document
from tandem.training.guards import LossGuard
from tandem.training.loop_config import LoopConfig
from tandem.training.methods.engine import build_engine, configure
from tandem.training.methods.model import load_model
from tandem.training.schedule import micro_batches, plan_batches, share
from tandem.training.tasks import Task, TaskData, task_of
from tandem.training.throughput import Meter


@dataclass(frozen=True)
class Worker:
    """Its place in the group, its task, and its engine.

    Args:
        task: What is learnt.
        rank: From 0.
        workers: How many there are.
        threads: That this one computes with.
        engine: DeepSpeed's.
        head: The model's output embeddings; None where it has none.
        guard: Looks at each step's loss.
        meter: Measures memory and share of the device's peak.
        attention: Its name in transformers.
        set_up_s: Seconds that imports, model and engine took.
    """

    task: Task
    rank: int
    workers: int
    threads: int
    engine: Any
    head: Any
    guard: LossGuard
    meter: Meter
    attention: str
    set_up_s: dict[str, float]

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


def planned(config: LoopConfig, data: TaskData, *, done: int = 0) -> Iterator[list[int]]:
    """The rows of each step after `done` ones: the same for any number of workers."""
    schedule = config.spec.schedule
    return plan_batches(
        data.lengths,
        steps=config.steps,
        batch_size=schedule.batch_size,
        seed=schedule.seed,
        # Classes differ in length: rows of like length would make batches of one class.
        by_length=not config.packing and config.spec.task == "generation",
        done=done,
    )


def train_step(worker: Worker, config: LoopConfig, data: TaskData, batch: list[int], step: int) -> dict[str, Any]:
    """One optimizer step over a batch, this worker's part of it.

    The loss is the mean over what carries loss in the whole batch, whatever the number of workers and micro-batches:
    a mean of means would weigh a token by how long its neighbours' answers are.

    Args:
        worker: This one.
        config: The run.
        data: All examples.
        batch: Indices of the whole batch, sorted by length.
        step: From 0.

    Returns:
        The step's record (see `tandem.training.metrics.steps`), the same on every worker but for times.

    Raises:
        DivergedError: The loss or the gradient isn't finite, or the loss grows and grows; the batch is saved.
    """
    import torch

    began = time.perf_counter()
    engine = worker.engine
    learning_rate = float(engine.get_lr()[0])
    passes = _passes(config, data, batch)
    micros = share(passes, rank=worker.rank, workers=worker.workers)
    weight = data.loss_weight(batch)
    # DeepSpeed divides by the accumulation steps and averages over the workers: both are undone here.
    scale = len(micros) * worker.workers / weight
    engine.train()
    total = torch.zeros((), device=engine.device)
    for number, indices in enumerate(micros, start=1):
        # Dropout depends on seed, step and place in the batch alone: whoever resumes draws what an unbroken run would
        # have drawn, on another number of workers too.
        place = (number - 1) * worker.workers + worker.rank
        torch.manual_seed(((config.spec.schedule.seed + 1) * 1_000_003 + step) * len(passes) + place)
        inputs = [tensor.to(engine.device) for tensor in data.collate(indices, config.pad_id)]
        summed, _ = worker.task.loss(engine, worker.head, inputs)
        total += summed.detach()
        engine.backward(summed * scale)
        if number == len(micros):
            # Before the weights change: what isn't a number must not reach them.
            loss = _sum_over_workers(total) / weight
            worker.guard.check_loss(loss, data, batch, step, lambda: _row_losses(worker, config, data, batch))
            grad_norm = _plain_norm(engine)
        engine.step()
    if grad_norm is None:
        grad_norm = float(engine.get_global_grad_norm() or 0.0)
    worker.guard.check_gradient(grad_norm, data, batch, step, scaled=engine.fp16_enabled())
    seconds = time.perf_counter() - began
    of_all = data.lengths
    lengths = [of_all[index] for index in batch]
    tokens = sum(lengths)
    computed = tokens if config.packing else sum(len(rows) * max(of_all[index] for index in rows) for rows in passes)
    return {
        "step": step + 1,
        "loss": loss,
        "learning_rate": learning_rate,
        "grad_norm": grad_norm,
        "tokens": tokens,
        "loss_weight": weight,
        "padding": 1 - tokens / computed,
        "tokens_per_s": tokens / seconds,
        "step_s": seconds,
        "time_ms": int(time.time() * 1000),
        **worker.meter.figures(lengths, weight, seconds),
    }


def _plain_norm(engine: Any) -> float | None:
    """Of the gradient before clipping, the same on every worker, where DeepSpeed keeps none; None where it does."""
    if engine.zero_optimization() or engine.bfloat16_enabled() or engine.fp16_enabled():
        return None
    import torch

    # The last backward pass has averaged it over the workers; the step clips and clears it.
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def _row_losses(worker: Worker, config: LoopConfig, data: TaskData, batch: Sequence[int]) -> list[float]:
    """Of each row of a batch, per loss-carrying token; shared out over the workers, which all must call it."""
    import torch
    import torch.distributed

    losses = torch.zeros(len(batch), device=worker.engine.device)
    worker.engine.eval()
    with torch.no_grad():
        for first in range(0, len(batch), worker.workers):
            at = first + worker.rank
            row = [batch[min(at, len(batch) - 1)]]
            inputs = [tensor.to(worker.engine.device) for tensor in data.collate(row, config.pad_id)]
            summed, _ = worker.task.loss(worker.engine, worker.head, inputs)
            if at < len(batch):
                losses[at] = summed / data.loss_weight(row)
    torch.distributed.all_reduce(losses)
    return [float(loss) for loss in losses.tolist()]


@dataclass(frozen=True)
class Evaluation:
    """What the held-out examples came to.

    Args:
        figures: For the step's record: `eval_loss`, and what the task measures beside it.
        logits: (examples, classes) float32 on the worker's device; None where the task has none per example.
    """

    figures: dict[str, float]
    logits: Any


def evaluate(worker: Worker, config: LoopConfig, data: TaskData, step: int) -> Evaluation:
    """The held-out examples, shared out over the workers: their mean loss, and what the task measures.

    Args:
        worker: This one.
        config: The run.
        data: The examples.
        step: From 0, the last one that is done.

    Raises:
        DivergedError: The loss isn't a number; the rows are saved.
    """
    import torch
    import torch.distributed

    micros = _passes(config, data, range(len(data)))
    total = torch.zeros((), device=worker.engine.device)
    logits = None
    worker.engine.eval()
    with torch.no_grad():
        for first in range(0, len(micros), worker.workers):
            # Under ZeRO 3 every worker must run every forward pass: one that has none left repeats, and counts nothing.
            at = first + worker.rank
            indices = micros[min(at, len(micros) - 1)]
            inputs = [tensor.to(worker.engine.device) for tensor in data.collate(indices, config.pad_id)]
            summed, outputs = worker.task.loss(worker.engine, worker.head, inputs)
            if outputs is not None and logits is None:
                logits = torch.zeros((len(data), outputs.shape[-1]), device=worker.engine.device)
            if at < len(micros):
                total += summed
                if logits is not None:
                    logits[indices] = outputs.float()
    if logits is not None:
        torch.distributed.all_reduce(logits)  # each example is some worker's, and zero on all others
    everything = range(len(data))
    loss = _sum_over_workers(total) / data.loss_weight(everything)
    worker.guard.check_evaluation(loss, data, step, lambda: _row_losses(worker, config, data, everything))
    return Evaluation({"eval_loss": loss, **worker.task.measure(logits, data)}, logits)


def _passes(config: LoopConfig, data: TaskData, rows: Sequence[int]) -> list[list[int]]:
    size = config.spec.schedule.micro_batch_size
    return micro_batches(rows, data.lengths, micro_batch_size=size, packing=config.packing)


def write_logits(logits: Any, path: Path, *, first: bool) -> None:
    """Write (examples, classes) float32 as .npy; the first worker does."""
    import numpy as np

    if first:
        np.save(path, logits.cpu().numpy(), allow_pickle=False)


def _sum_over_workers(value: Any) -> float:
    import torch.distributed

    torch.distributed.all_reduce(value)
    return float(value)


def set_up(config: LoopConfig) -> Worker:
    """This worker's place, task, threads and engine.

    Its place comes from the environment that every launcher of `torch.distributed` sets, Ray Train and torchrun alike.
    """
    began = time.perf_counter()
    skip_scipy()
    import torch
    import torch.distributed
    from transformers.utils import logging

    logging.disable_progress_bar()
    # DeepSpeed calls torch by names that torch is renaming, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # Without a limit each worker would start a thread for every core: they would fight for them, and take what Ray has
    # given to others.
    threads = max(1, min(int(config.spec.cpus_per_worker), cores() // int(os.environ["LOCAL_WORLD_SIZE"])))
    torch.set_num_threads(threads)
    imported = time.perf_counter()
    task = task_of(config)
    settings = configure(config)
    model = load_model(config, task, settings)
    loaded = time.perf_counter()
    engine = build_engine(model, config, settings)
    built = time.perf_counter()
    head = engine.module.get_output_embeddings()
    half = engine.bfloat16_enabled() or engine.fp16_enabled()
    attention = (
        attend_per_document(engine.module, cuda=config.cuda, half=half)
        if config.packing
        else str(engine.module.config._attn_implementation)
    )
    return Worker(
        task=task,
        rank=torch.distributed.get_rank(),
        workers=torch.distributed.get_world_size(),
        threads=threads,
        engine=engine,
        head=head,
        guard=LossGuard(config, writes=torch.distributed.get_rank() == 0),
        meter=Meter.of(engine, head),
        attention=attention,
        set_up_s={"imports": imported - began, "model": loaded - imported, "engine": built - loaded},
    )
