"""The finetune job: rows in, an adapter or weights out, whatever dies meanwhile."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from tandem.artifacts.job import CHECKPOINTS, WORKERS_LOST, WORKERS_PHASE, JobContext
from tandem.config.light_imports import skip_scipy
from tandem.errors import PreemptedError
from tandem.models.loading import model_path
from tandem.retrieval.actor import join_ray
from tandem.specs.finetune import FinetuneSpec
from tandem.training import metrics
from tandem.training.artifact import METRICS, write_artifact
from tandem.training.classification.prepare import Classes, prepare_labelled
from tandem.training.classification.report import evaluate_classes
from tandem.training.data.masks import padding_id
from tandem.training.data.packing import obstacle
from tandem.training.data.prepare import prepare
from tandem.training.data.reuse import Prepared
from tandem.training.failures import FAILURE, fit, memory_watch
from tandem.training.gauges import Gauges
from tandem.training.guards import OFFENDING_BATCH
from tandem.training.loop_config import LoopConfig
from tandem.training.methods.deepspeed import Hardware, build_config, read_plain
from tandem.training.methods.model import check_quantization
from tandem.training.methods.positions import check_max_length, read_config
from tandem.training.metrics import Record
from tandem.training.scaling import gpus_of_each, scaling_config, torch_config
from tandem.training.schedule import total_steps
from tandem.training.spent import SPENT, Spent
from tandem.training.tracking import Tracker
from tandem.training.worker import train_worker

MAX_FAILURES = 2  # restarts of the workers inside one attempt of the job; what dies more often isn't bad luck
START_TIMEOUT_S = 300  # Ray Train's own minute is short for slow disks
ELASTIC_START_TIMEOUT_S = 60  # an elastic run waits it out before it goes on with fewer workers
LAST_STEPS = 10  # whose mean is the training loss that we report
LOGITS = "eval-logits.npy"
HELD_OUT = ("excluded_passages", "eval_rows_sharing_document")  # of retrieval, for the result


def run(spec: FinetuneSpec, context: JobContext) -> dict[str, Any]:
    """Prepare the data, train on Ray workers, write the artifact with its manifest last.

    Args:
        spec: What to train on what.
        context: The job; its cluster names Ray, the collection and MLflow.

    Returns:
        The artifact's path, steps, losses, tokens, seconds, where an attempt resumed, and counts of rows.

    Raises:
        DataError: The rows can't be used.
        DivergedError: The loss is no longer a number, or grows and grows; it names the file with the batch.
        InputError: The cluster can never give what the job asks for.
        ModelError: The model can't be used, or reads fewer tokens than `schedule.max_length`.
        OutOfMemoryError: A worker needed more memory than there is.
        WorkerLostError: Workers were killed more often than they are restarted.
        NotFoundError: A file, the model or the collection isn't there.
        PreemptedError: It was asked to step aside for another job.
        SpecError: The DeepSpeed JSON can't be used, or contradicts the spec.
    """
    skip_scipy()
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    started = time.time()
    transformers_logging.disable_progress_bar()  # progress is ours to tell: bars fill a log file
    for name in (FAILURE, OFFENDING_BATCH, WORKERS_LOST):
        (context.dir / name).unlink(missing_ok=True)  # an earlier attempt's
    gpus = _connect_ray(spec, context)
    plain = read_plain(spec)
    # The workers build it again, for what they compute on: here it is checked before anything is loaded.
    for workers in range(spec.min_workers, spec.max_workers + 1):
        build_config(spec.with_workers(workers), plain, Hardware(cuda=gpus > 0, bf16=True))
    if spec.method == "qlora":
        check_quantization()
    context.progress("prepare", 0)
    model = model_path(spec.model, storage=context.storage)
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    check_max_length(spec, read_config(model), tokenizer if spec.task == "classification" else None)
    classes: Classes | None = None
    if spec.task == "classification":
        prepared, classes = prepare_labelled(spec, context, tokenizer, model)
    else:
        prepared = prepare(spec, context, tokenizer)
    folder = context.artifact_dir()
    config = LoopConfig(
        spec=spec,
        plain=plain,
        model=str(model),
        train=str(prepared.train),
        eval=str(prepared.eval) if prepared.eval is not None else None,
        steps=total_steps(prepared.examples, spec.schedule),
        pad_id=padding_id(tokenizer),
        packing=_packs(spec, model),
        labels=classes.labels if classes is not None else (),
        logits=str(context.dir / LOGITS) if classes is not None else None,
        cuda=gpus > 0,
        metrics=str(context.dir / METRICS),
        checkpoints=str(context.dir.absolute() / CHECKPOINTS),
        output=str(folder),
        started_at=started,
    )
    tracker = Tracker(context, _params(spec, prepared, config.steps))
    spent = Spent(context.dir / SPENT, cpus=spec.cpus_per_worker, gpus=gpus, since=started)
    _fit(config, context, tracker, gpus, spent)

    records = metrics.read(context.dir / METRICS)
    figures = _figures(records, seconds=time.time() - started, spent=spent, spec=spec, gpus=gpus)
    if classes is not None:
        figures |= evaluate_classes(classes, context.dir / LOGITS, folder, seed=spec.schedule.seed)
    write_artifact(spec, context, model=model, tokenizer=tokenizer, prepared=prepared, figures=figures)
    tracker.close(metrics.steps(records), status="FINISHED", artifacts=str(folder), figures=figures)
    context.progress("done", figures["steps"], config.steps, train_loss=figures["train_loss"])
    counts = {key: prepared.data[key] for key in ("train_rows", "eval_rows", "quarantined", "leaked")}
    counts |= {key: prepared.retrieval[key] for key in HELD_OUT if prepared.retrieval is not None}
    return {"artifact": str(folder), **figures, **counts, "mlflow_run": tracker.run_id}


def _connect_ray(spec: FinetuneSpec, context: JobContext) -> float:
    """Connect, and see that the cluster has what the job asks for. Returns the GPUs per worker."""
    # Read when Ray Train is imported, and passed on to its controller.
    patience_s = START_TIMEOUT_S if isinstance(spec.workers, int) else ELASTIC_START_TIMEOUT_S
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(patience_s))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if context.cluster.local:
        # An actor that watches for machines which a cloud takes back; here it would only cost a process.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray

    join_ray(context.cluster)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return gpus_of_each(spec, nodes, context.cluster.grows_to)


def _fit(config: LoopConfig, context: JobContext, tracker: Tracker, gpus: float, spent: Spent) -> None:
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig
    from ray.train.torch import TorchTrainer

    spec = config.spec
    gauges = Gauges(context.name)
    file = Path(config.metrics)
    earlier = len(metrics.starts(metrics.read(file)))

    def count(records: list[Record]) -> None:
        # Until workers of this attempt have started nobody holds anything.
        if started := metrics.starts(records)[earlier:]:
            spent.count(started[-1]["workers"])

    def tell(records: list[Record]) -> None:
        count(records)
        last = next((record for record in reversed(records) if "loss" in record), None)
        if last is not None:
            context.progress("train", int(last["step"]), config.steps, **metrics.shown(last))
            gauges.set(last)
            tracker.follow(records)
        else:
            context.progress("train", int(records[-1]["started_at_step"]), config.steps)

    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config},
        torch_config=torch_config(gpus),
        scaling_config=scaling_config(spec, gpus),
        # The same path and name in every attempt of the job: Ray Train then goes on from the last checkpoint.
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=str(context.dir.absolute()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(),  # all: which of them stay is ours to say
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=[memory_watch(context.dir)],
        ),
    )
    # Ray Train's own list of checkpoints would name some that are no longer there; the workers look for themselves.
    (Path(config.checkpoints) / "checkpoint_manager_snapshot.json").unlink(missing_ok=True)
    if context.must_step_aside:
        raise PreemptedError("stepped aside before it trained")
    context.progress(WORKERS_PHASE, 0, spec.max_workers)
    try:
        with metrics.Follower(file, tell, keep=gauges.keep):
            fit(trainer.fit, context.dir)
    except BaseException as error:
        status = "KILLED" if isinstance(error, PreemptedError) else "FAILED"
        tracker.close(metrics.steps(metrics.read(file)), status=status)
        raise
    finally:
        count(metrics.read(file))


def _packs(spec: FinetuneSpec, model: Path) -> bool:
    """Whether rows are packed: as the spec says, unless the model can't; then the reason is printed."""
    if not spec.schedule.packing or spec.task != "generation":
        return False
    reason = obstacle(model)
    if reason is not None:
        print(f"schedule.packing: {reason}", flush=True)
    return reason is None


def _params(spec: FinetuneSpec, prepared: Prepared, steps: int) -> dict[str, Any]:
    schedule = spec.schedule
    return {
        "model": spec.model,
        "method": spec.method,
        "lora_r": spec.lora.r if spec.trains_adapter else None,
        "collection": spec.retrieval.collection if spec.retrieval else None,
        "workers": spec.workers,
        "deepspeed": spec.deepspeed,
        "batch_size": schedule.batch_size,
        "learning_rate": schedule.learning_rate,
        "scheduler": schedule.scheduler,
        "steps": steps,
        "train_rows": prepared.data["train_rows"],
        "spec_sha256": spec.digest(),
    }


def _figures(records: list[Record], *, seconds: float, spent: Spent, spec: FinetuneSpec, gpus: float) -> dict[str, Any]:
    """What the records come to; `train_loss` is the mean of the last steps.

    `seconds`, `startup_s`, `workers`, `cpus` and `gpus` are those of this attempt, `cpu_s` and `gpu_s` of all of them.
    """
    done = metrics.steps(records)
    attempts = metrics.starts(records)
    last = [record["loss"] for record in done[-LAST_STEPS:]]
    ended = metrics.ending(records)
    evaluated = {record["step"]: record["eval_loss"] for record in done if "eval_loss" in record}
    workers = attempts[-1]["workers"]
    tokens = sum(record["tokens"] for record in done)
    return {
        "steps": len(done),
        "train_loss": math.fsum(last) / len(last),
        "eval_loss": evaluated.get(ended["weights_step"]),
        "weights_step": ended["weights_step"],
        "stopped_early": ended["stopped"],
        "tokens": tokens,
        "tokens_per_s": tokens / math.fsum(record["step_s"] for record in done),
        "seconds": round(seconds, 1),
        "startup_s": round(attempts[-1]["startup_s"], 1),
        "checkpoint_stall_s": round(ended["checkpoint_stall_s"], 3),
        "resumed_at": [record["started_at_step"] for record in attempts[1:]],
        "skipped_checkpoints": [skipped for record in attempts for skipped in record["skipped_checkpoints"]],
        "workers": workers,
        "cpus": workers * spec.cpus_per_worker,
        "gpus": workers * gpus,
        "cpu_s": round(spent.cpu_s, 1),
        "gpu_s": round(spent.gpu_s, 1),
        "precision": attempts[-1]["precision"],
        "packing": attempts[-1]["packing"],
        "trainable_parameters": attempts[-1]["trainable_parameters"],
    }
