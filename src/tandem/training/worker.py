"""What each worker runs: from the last sound checkpoint to the last step, or until the loss no longer falls."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tandem.artifacts.job import STEP_ASIDE, WORKERS_LOST
from tandem.errors import PreemptedError
from tandem.training import metrics
from tandem.training.checkpoints.saving import Checkpoints, Resumed, save_weights
from tandem.training.early_stopping import Evaluated, stop_reason
from tandem.training.failures import recorded
from tandem.training.group import Notice, RayGroup, WorkerGroup
from tandem.training.loop import Worker, evaluate, planned, set_up, train_step, write_logits
from tandem.training.loop_config import LoopConfig
from tandem.training.methods.engine import optimizer_name
from tandem.training.throughput import whole_size


def train_worker(raw: dict[str, Any]) -> None:
    """Ray Train's entry: what another attempt of the workers can't mend is written down for the driver.

    Args:
        raw: ``{"config": LoopConfig}``.
    """
    config: LoopConfig = raw["config"]
    folder = Path(config.metrics).parent
    group = RayGroup(folder / STEP_ASIDE)
    recorded(lambda: train(config, group), folder, worker=group.rank, cuda=config.cuda)


def train(config: LoopConfig, group: WorkerGroup) -> None:
    """Set up, resume, train, save; every worker of the group calls it.

    Args:
        config: The run.
        group: Who the workers are.

    Raises:
        DivergedError: The loss, or that on the held-out rows, is no longer a number, or it grows and grows.
        PreemptedError: It was asked to step aside, and its checkpoint is stored.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not config.cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed takes a GPU that it sees, though it isn't ours
    config = replace(config, spec=config.spec.with_workers(group.size))
    spec = config.spec
    worker = set_up(config)
    records = Path(config.metrics)
    checkpoints = Checkpoints(worker.engine, group, Path(config.checkpoints), spec)
    resumed = checkpoints.resume()
    progress = resumed.progress
    if worker.first:
        _tell_start(config, worker, resumed)
    worker.guard.resume(metrics.steps(metrics.read(records)), progress.step)
    data = worker.task.load_data(config.train)
    held_out = worker.task.load_data(config.eval) if config.eval is not None else None
    every = spec.checkpoint.every_steps
    batches = planned(config, data, done=progress.step)
    stopped, told = stop_reason(progress.evaluations, spec.early_stopping), False
    while stopped is None and progress.step < config.steps:
        record = train_step(worker, config, data, next(batches), progress.step)
        progress = replace(progress, step=progress.step + 1)
        due = progress.step % every == 0 or progress.step == config.steps
        if due and held_out is not None:
            record |= evaluate(worker, config, held_out, progress.step - 1).figures
            evaluated = Evaluated(progress.step, record["eval_loss"])
            progress = replace(progress, evaluations=(*progress.evaluations, evaluated))
            stopped = stop_reason(progress.evaluations, spec.early_stopping)
        if worker.first:
            metrics.append(records, record)
        # Told that a machine goes away, the group has seconds: what was learnt since the last checkpoint is saved.
        notice = group.notice()
        aside = notice is Notice.STEP_ASIDE and stopped is None and progress.step < config.steps
        leaving = aside or (notice is Notice.MACHINE_LEAVES and not told)
        told = told or leaving
        if due or leaving:
            checkpoints.save(progress, record)
        if leaving:
            group.wait()  # what is still on its way when the machine goes is lost
        if aside:
            raise PreemptedError(f"stepped aside after step {progress.step} of {config.steps}, which is stored")
    weights_step = checkpoints.finish(progress)
    if held_out is not None and config.logits is not None:
        # Of the weights that are saved, whatever was evaluated on the way.
        final = evaluate(worker, config, held_out, weights_step - 1)
        write_logits(final.logits, Path(config.logits), first=worker.first)
    save_weights(worker.engine, Path(config.output))
    if worker.first:
        ended = {"step": progress.step, "stopped": stopped, "weights_step": weights_step}
        metrics.append(records, {**ended, "checkpoint_stall_s": checkpoints.stall_s})


def _tell_start(config: LoopConfig, worker: Worker, resumed: Resumed) -> None:
    for skipped in resumed.skipped:
        print(f"checkpoint {skipped.name} is skipped: {skipped.why}", flush=True)
    records = Path(config.metrics)
    metrics.rewind(records, resumed.progress.step)
    metrics.append(records, _start_record(config, worker, resumed))
    (records.parent / WORKERS_LOST).unlink(missing_ok=True)


def _start_record(config: LoopConfig, worker: Worker, resumed: Resumed) -> dict[str, Any]:
    import torch.distributed

    engine = worker.engine
    sizes = [(whole_size(parameter), parameter.requires_grad) for parameter in engine.module.parameters()]
    return {
        "started_at_step": resumed.progress.step,
        "workers": worker.workers,
        "workers_before": resumed.workers,
        "skipped_checkpoints": [asdict(skipped) for skipped in resumed.skipped],
        "threads": worker.threads,
        "packing": config.packing,
        "attention": worker.attention,
        "precision": "bf16" if engine.bfloat16_enabled() else "fp16" if engine.fp16_enabled() else "fp32",
        "zero_stage": worker.engine.zero_optimization_stage(),
        "device": str(worker.engine.device),
        "backend": torch.distributed.get_backend(),
        "optimizer": optimizer_name(engine.basic_optimizer),
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trained in sizes if trained),
        "startup_s": time.time() - config.started_at,
        "set_up_s": worker.set_up_s,
    }
