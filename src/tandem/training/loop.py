"""What each Ray Train worker runs: a DeepSpeed engine over the planned batches, from the last checkpoint on."""

from __future__ import annotations

import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.config.machine import cores
from tandem.errors import TandemError
from tandem.training import metrics
from tandem.training.checkpoints import latest_checkpoint, load_checkpoint, report_checkpoint, save_weights
from tandem.training.engine import build_engine
from tandem.training.loop_config import LoopConfig
from tandem.training.model import load_model
from tandem.training.schedule import plan_batches, share
from tandem.training.tasks import Task, TaskData, task_of


@dataclass(frozen=True)
class Worker:
    """Its place in the group, its task, and its engine."""

    task: Task
    rank: int
    workers: int
    threads: int
    engine: Any
    head: Any

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


def train_worker(raw: dict[str, Any]) -> None:
    """Ray Train's entry: set up, resume, train, save.

    Args:
        raw: ``{"config": LoopConfig}``.

    Raises:
        TandemError: The loss is no longer a number.
    """
    config: LoopConfig = raw["config"]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not config.cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed takes a GPU that it sees, though it isn't ours
    worker = _set_up(config)
    records = Path(config.metrics)
    with latest_checkpoint() as folder:
        step = 0 if folder is None else load_checkpoint(worker.engine, folder, method=config.spec.method)
    if worker.first:
        metrics.rewind(records, step)
        metrics.append(records, _start_record(config, worker, step))
    data = worker.task.load_data(config.train)
    held_out = worker.task.load_data(config.eval) if config.eval is not None else None
    schedule, every = config.spec.schedule, config.spec.checkpoint.every_steps
    batches = plan_batches(data.lengths, steps=config.steps, batch_size=schedule.batch_size, seed=schedule.seed)
    while step < config.steps:
        record = train_step(worker, config, data, batches[step], step)
        step += 1
        due = step % every == 0 or step == config.steps
        if due and held_out is not None:
            record |= evaluate(worker, config, held_out).figures
        if worker.first:
            metrics.append(records, record)
        if due:
            report_checkpoint(worker.engine, record, step=step, method=config.spec.method)
    save_weights(worker.engine, Path(config.output))


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
        The step's record (see `tandem.training.metrics`), the same on every worker but for times.

    Raises:
        TandemError: The loss isn't finite.
    """
    import torch

    began = time.perf_counter()
    engine = worker.engine
    # Dropout depends on seed, step and rank alone, so that a resumed run draws what an unbroken one would have drawn.
    torch.manual_seed(((config.spec.schedule.seed + 1) * 1_000_003 + step) * worker.workers + worker.rank)
    learning_rate = float(engine.get_lr()[0])
    micros = share(
        batch,
        micro_batch_size=config.spec.schedule.micro_batch_size,
        rank=worker.rank,
        workers=worker.workers,
    )
    weight = data.loss_weight(batch)
    # DeepSpeed divides by the accumulation steps and averages over the workers: both are undone here.
    scale = len(micros) * worker.workers / weight
    engine.train()
    total = torch.zeros((), device=engine.device)
    for indices in micros:
        inputs = [tensor.to(engine.device) for tensor in data.collate(indices, config.pad_id)]
        summed, _ = worker.task.loss(engine, worker.head, inputs)
        total += summed.detach()
        engine.backward(summed * scale)
        engine.step()
    loss = _sum_over_workers(total) / weight
    if not math.isfinite(loss):
        raise TandemError(
            f"the loss is {loss} at step {step + 1}",
            remedy="lower schedule.learning_rate, or look at the rows of this step",
        )
    seconds = time.perf_counter() - began
    tokens = sum(data.lengths[index] for index in batch)
    return {
        "step": step + 1,
        "loss": loss,
        "learning_rate": learning_rate,
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        "tokens": tokens,
        "loss_weight": weight,
        "tokens_per_s": tokens / seconds,
        "step_s": seconds,
        "time_ms": int(time.time() * 1000),
    }


@dataclass(frozen=True)
class Evaluation:
    """What the held-out examples came to.

    Args:
        figures: For the step's record: `eval_loss`, and what the task measures beside it.
        logits: (examples, classes) float32 on the worker's device; None where the task has none per example.
    """

    figures: dict[str, float]
    logits: Any


def evaluate(worker: Worker, config: LoopConfig, data: TaskData) -> Evaluation:
    """The held-out examples, shared out over the workers: their mean loss, and what the task measures."""
    import torch
    import torch.distributed

    size = config.spec.schedule.micro_batch_size
    order = sorted(range(len(data)), key=lambda index: data.lengths[index])
    micros = [order[at : at + size] for at in range(0, len(order), size)]
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
    loss = _sum_over_workers(total) / data.loss_weight(range(len(data)))
    return Evaluation({"eval_loss": loss, **worker.task.measure(logits, data)}, logits)


def _sum_over_workers(value: Any) -> float:
    import torch.distributed

    torch.distributed.all_reduce(value)
    return float(value)


def _start_record(config: LoopConfig, worker: Worker, step: int) -> dict[str, Any]:
    parameters = list(worker.engine.module.parameters())
    # Under ZeRO 3 a parameter's own size is that of this worker's share, and ds_numel the whole.
    sizes = [
        (int(getattr(parameter, "ds_numel", parameter.numel())), parameter.requires_grad) for parameter in parameters
    ]
    return {
        "started_at_step": step,
        "workers": worker.workers,
        "threads": worker.threads,
        "precision": "bf16" if worker.engine.bfloat16_enabled() else "fp32",
        "zero_stage": worker.engine.zero_optimization_stage(),
        "device": str(worker.engine.device),
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trained in sizes if trained),
        "startup_s": time.time() - config.started_at,
    }


def _set_up(config: LoopConfig) -> Worker:
    import ray.train
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    # DeepSpeed calls torch by names that torch is renaming, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    context = ray.train.get_context()
    # Without a limit each worker would start a thread for every core, and they would fight for them.
    threads = max(1, cores() // context.get_local_world_size())
    torch.set_num_threads(threads)
    engine = build_engine(load_model(config), config)
    return Worker(
        task=task_of(config.spec),
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        threads=threads,
        engine=engine,
        head=engine.module.get_output_embeddings(),
    )
