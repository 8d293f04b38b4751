"""The finetune job under real Ray Train and DeepSpeed, on two workers and tiny random weights."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_llama

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import read_manifest
from tandem.config.cluster import Cluster
from tandem.data.train_rows import TRAIN_ROWS, read_keys
from tandem.errors import DataError, DivergedError, InputError, ModelError, WorkerLostError
from tandem.orchestrator.states import RETRIES, Observation, Reason, ending
from tandem.runner.__main__ import cause
from tandem.specs.finetune import FinetuneSpec
from tandem.training import job, metrics
from tandem.training.checkpoints.store import checkpoint_step, checkpoints, incomplete
from tandem.training.data.dataset import Examples
from tandem.training.failures import killed_worker
from tandem.training.loss import completion_loss
from tandem.training.schedule import plan_batches

STEPS = 40
EVERY = 4
DEADLINE_S = 600
MISTRAL_LIKE = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
EXHAUSTED = Path(__file__).parents[1] / "stand_ins" / "exhausted_worker.py"
ZERO3 = Path(__file__).parents[2] / "jobs" / "deepspeed" / "zero3.json"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    rows = [{"id": f"r{n}", "question": f"What is number {n}?", "answers": [str(n * 7 % 10)]} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def finetune_spec(model: Path, rows: Path, **fields: Any) -> FinetuneSpec:
    schedule = {
        "max_steps": STEPS,
        "epochs": 100,
        "learning_rate": 0.01,
        "batch_size": 8,
        "micro_batch_size": 2,
        "max_length": 256,
        **fields.pop("schedule", {}),
    }
    return FinetuneSpec.model_validate(
        {
            "kind": "finetune",
            "name": "tiny",
            "model": str(model),
            "data": {"train": str(rows), "eval_fraction": 0.2},
            "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
            "precision": "fp32",
            "workers": 2,
            "schedule": schedule,
            "checkpoint": {"every_steps": EVERY},
            "early_stopping": {"enabled": False},
            **fields,
        }
    )


def job_context(cluster: Cluster, id: str) -> JobContext:
    folder = cluster.storage / "jobs" / id
    folder.mkdir(parents=True)
    return JobContext(id, "tiny", folder, cluster.storage, cluster)


def losses(context: JobContext) -> list[float]:
    return [record["loss"] for record in metrics.steps(metrics.read(context.dir / job.METRICS))]


@pytest.fixture(scope="module")
def unbroken(ray_cluster: Cluster, model_path: Path, rows_path: Path) -> tuple[JobContext, dict[str, Any]]:
    context = job_context(ray_cluster, "tiny-unbroken")
    with (context.dir / "log").open("w") as log, contextlib.redirect_stdout(log):
        return context, job.run(finetune_spec(model_path, rows_path, output={"merge": True}), context)


def held_out_loss(model: Any, context: JobContext) -> float:
    import torch

    examples = Examples.load(context.dir / "eval-examples")
    with torch.no_grad():
        batch = examples.collate(range(len(examples)), pad_id=0)
        total = completion_loss(model.eval(), model.get_output_embeddings(), *batch)
    return float(total) / examples.loss_tokens(range(len(examples)))


def test_the_job_learns_and_says_so(unbroken: tuple[JobContext, dict[str, Any]]) -> None:
    context, result = unbroken
    assert result["steps"] == STEPS
    assert result["workers"] == 2
    assert result["resumed_at"] == []
    assert losses(context)[-1] < losses(context)[0] - 0.5  # its frozen random head allows no more
    (start,) = metrics.starts(metrics.read(context.dir / job.METRICS))
    assert (start["device"], start["backend"], start["optimizer"]) == ("cpu", "gloo", "AdamW")
    for record in metrics.steps(metrics.read(context.dir / job.METRICS)):
        assert len(record["memory_bytes"]) == 2
        assert min(record["memory_bytes"]) > 50e6
        assert "mfu" not in record  # a processor's peak isn't known
    progress = json.loads((context.dir / "progress.json").read_text())
    assert (progress["phase"], progress["done"], progress["total"]) == ("done", STEPS, STEPS)


def test_the_log_shows_what_is_learnt(unbroken: tuple[JobContext, dict[str, Any]]) -> None:
    log = (unbroken[0].dir / "log").read_text()
    assert "32 examples, " in log
    assert len(re.findall(r"  r\d+: .*<\|im_start\|>assistant⏎⟦\d<\|im_end\|>⟧", log)) == 3


def test_the_adapter_that_peft_loads_computes_what_the_engine_computed(
    unbroken: tuple[JobContext, dict[str, Any]], model_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    context, result = unbroken
    base = AutoModelForCausalLM.from_pretrained(model_path)
    before = held_out_loss(base, context)
    tuned = PeftModel.from_pretrained(base, result["artifact"])
    after = held_out_loss(tuned, context)
    # The engine measured its loss on the held-out rows after the last step.
    assert after == pytest.approx(result["eval_loss"], rel=1e-4)
    assert after < before - 0.5
    merged = AutoModelForCausalLM.from_pretrained(Path(result["artifact"]) / "merged")
    assert held_out_loss(merged, context) == pytest.approx(result["eval_loss"], rel=1e-4)


def test_the_artifact_is_complete_and_says_what_it_is(
    unbroken: tuple[JobContext, dict[str, Any]], model_path: Path
) -> None:
    _, result = unbroken
    folder = Path(result["artifact"])
    manifest = read_manifest(folder)
    assert manifest.type == "adapter"
    wanted = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert wanted | {"spec.json", "curve.png", "metrics.jsonl", "README.md"} <= set(manifest.files)
    assert not [name for name in manifest.files if name.endswith((".bin", ".pt"))]
    assert manifest.meta["data"]["train_sha256"] in (folder / "README.md").read_text()
    assert manifest.meta["base_model"] == str(model_path)
    assert manifest.meta["data"]["train_rows"] == len(read_keys(folder / TRAIN_ROWS)) == 32
    assert TRAIN_ROWS in manifest.files
    assert manifest.meta["metrics"]["seconds"] > 0
    assert manifest.meta["metrics"]["cpu_s"] > 0
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == STEPS + 2  # how it began, and how it ended


def test_mlflow_has_the_whole_run(unbroken: tuple[JobContext, dict[str, Any]]) -> None:
    import mlflow

    context, result = unbroken
    client = mlflow.MlflowClient(tracking_uri=context.cluster.mlflow_uri)
    run = client.get_run(result["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.01"
    logged = client.get_metric_history(result["mlflow_run"], "loss")
    assert [point.step for point in logged] == list(range(1, STEPS + 1))
    assert [point.value for point in logged] == pytest.approx(losses(context))


def kill_a_worker_after_a_checkpoint(context: JobContext, killed: list[int]) -> None:
    from ray.util.state import list_actors

    def wait_for(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not reached() and time.monotonic() < deadline:
            threading.Event().wait(0.02)

    wait_for(lambda: bool(metrics.starts(metrics.read(context.dir / job.METRICS))))
    # Asked for before the checkpoint is there: the answer takes longer than a few steps of a tiny model.
    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    alive = list_actors(context.cluster.dashboard_url, filters=filters)
    wait_for(lambda: any(incomplete(folder) is None for folder in checkpoints(context.dir / job.CHECKPOINTS)))
    os.kill(alive[-1].pid, signal.SIGKILL)
    killed.append(alive[-1].pid)


def test_a_killed_worker_costs_the_steps_since_the_checkpoint_and_nothing_else(
    ray_cluster: Cluster,
    model_path: Path,
    rows_path: Path,
    unbroken: tuple[JobContext, dict[str, Any]],
    tmp_path: Path,
) -> None:
    context = job_context(ray_cluster, "tiny-killed")
    rows = Path(shutil.copy(rows_path, tmp_path))
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(context, killed))
    killer.start()
    result = job.run(finetune_spec(model_path, rows), context)
    killer.join()
    assert killed
    assert len(result["resumed_at"]) == 1
    assert result["resumed_at"][0] % EVERY == 0
    assert result["resumed_at"][0] >= EVERY
    # Weights, optimizer, schedule, dropout and place in the data are those of the run that nobody disturbed.
    assert losses(context) == losses(unbroken[0])
    assert result["eval_loss"] == unbroken[1]["eval_loss"]
    # The last two and the best, and Ray Train's own list of them doesn't keep a later attempt from starting.
    kept = [checkpoint_step(folder) for folder in checkpoints(context.dir / job.CHECKPOINTS)]
    evaluated = {r["step"]: r["eval_loss"] for r in metrics.read(context.dir / job.METRICS) if "eval_loss" in r}
    assert kept == sorted({STEPS - EVERY, STEPS, min(evaluated, key=lambda step: (evaluated[step], step))})

    # An attempt of the job that dies after its last step is followed by one that has nothing left to train, here on
    # one worker: its weights come out of the checkpoint of two. The rows are still those that the job began with.
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows.write_text(json.dumps({"question": "Another?", "answers": ["yes"]}) + "\n")
    again = job.run(finetune_spec(model_path, rows, workers=1), context)
    assert again["train_rows"] == result["train_rows"] == 32
    assert again["resumed_at"] == [*result["resumed_at"], STEPS]
    assert (again["workers"], losses(context)) == (1, losses(unbroken[0]))
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path), again["artifact"])
    assert held_out_loss(tuned, context) == pytest.approx(result["eval_loss"], rel=1e-4)


def test_a_worker_that_dies_when_none_is_restarted_ends_the_attempt_and_not_the_job(
    ray_cluster: Cluster, model_path: Path, rows_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MAX_FAILURES", 0)
    context = job_context(ray_cluster, "tiny-lost")
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(context, killed))
    killer.start()
    with pytest.raises(WorkerLostError) as caught:
        job.run(finetune_spec(model_path, rows_path), context)
    killer.join()
    assert killed
    root = cause(caught.value)
    _, reason, _ = ending(Observation("FAILED", exit_code=1, error={"type": type(root).__name__, "what": str(root)}))
    assert (reason, RETRIES[reason] is not None) == (Reason.NODE_LOST, True)


@pytest.mark.parametrize("packing", [True, False])
def test_full_weights_under_zero_3_come_out_whole(
    ray_cluster: Cluster,
    model_path: Path,
    rows_path: Path,
    packing: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForCausalLM

    if not packing:  # and with a chat template of another family
        model_path = Path(shutil.copytree(model_path, tmp_path / "model"))
        (model_path / "chat_template.jinja").write_text(MISTRAL_LIKE)
    context = job_context(ray_cluster, f"tiny-full-{'packed' if packing else 'padded'}")
    schedule = {"max_steps": 6, "learning_rate": 0.002, "packing": packing}
    spec = finetune_spec(model_path, rows_path, method="full", deepspeed=str(ZERO3), schedule=schedule, workers=[1, 2])
    result = job.run(spec, context)
    learnt = r"<\|im_start\|>assistant⏎⟦\d<\|im_end\|>⟧" if packing else r"\[/INST\]⟦ \d<\|im_end\|>⟧"
    assert len(re.findall(rf"  r\d+: .*{learnt}", capsys.readouterr().out)) == 3
    assert result["workers"] == 2  # as many as there was room for
    assert read_manifest(Path(result["artifact"])).type == "model"
    model = AutoModelForCausalLM.from_pretrained(result["artifact"])
    assert held_out_loss(model, context) == pytest.approx(result["eval_loss"], rel=1e-4)
    assert result["trainable_parameters"] == sum(parameter.numel() for parameter in model.parameters())

    # The first step, computed in one piece without DeepSpeed: a mean over the batch's answer tokens, not of means.
    examples = Examples.load(context.dir / "train-examples")
    batch = next(plan_batches(examples.lengths, steps=6, batch_size=8, seed=0, by_length=not packing))
    plain = AutoModelForCausalLM.from_pretrained(model_path)
    loss = completion_loss(plain, plain.get_output_embeddings(), *examples.collate(batch, pad_id=0))
    loss = loss / examples.loss_tokens(batch)
    loss.backward()
    norm = sum(float(parameter.grad.norm()) ** 2 for parameter in plain.parameters()) ** 0.5
    first = metrics.steps(metrics.read(context.dir / job.METRICS))[0]
    assert result["packing"] == packing
    assert first["padding"] == 0 if packing else first["padding"] >= 0
    assert first["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert first["grad_norm"] == pytest.approx(norm, rel=1e-3)


def write_model_that_breaks_at(mark: str, model: Path, folder: Path) -> Path:
    """The same model, but with an embedding of `mark` that is no number."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = AutoModelForCausalLM.from_pretrained(model, tie_word_embeddings=False)
    tokenizer = AutoTokenizer.from_pretrained(model)
    (token,) = tokenizer(mark)["input_ids"]
    with torch.no_grad():
        broken.lm_head.weight.copy_(broken.get_input_embeddings().weight.clone())
        broken.get_input_embeddings().weight[token] = float("nan")
    broken.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_broken_loss_stops_at_once_and_says_which_row_it_was(
    ray_cluster: Cluster, model_path: Path, tmp_path: Path
) -> None:
    context = job_context(ray_cluster, "tiny-broken")
    model = write_model_that_breaks_at("^", model_path, tmp_path / "model")
    rows = [{"id": f"r{n}", "question": f"What is {'^' if n == 5 else n}?", "answers": [str(n)]} for n in range(16)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(path), "eval_fraction": 0.0}
    spec = finetune_spec(model, path, data=data, schedule={"max_steps": 4}, workers=1)
    with pytest.raises(DivergedError, match=r"the loss is nan at step \d: because of 1 of 8 rows \(r5\)") as caught:
        job.run(spec, context)
    assert caught.value.where == str(context.dir / "offending-batch.json")
    saved = json.loads((context.dir / "offending-batch.json").read_text())
    assert (saved["rows"][0]["id"], saved["rows"][0]["loss"]) == ("r5", "nan")
    assert "^" in saved["rows"][0]["text"]
    assert all(row["loss"] > 0 for row in saved["rows"][1:])
    assert len(metrics.starts(metrics.read(context.dir / job.METRICS))) == 1  # nothing was tried again


def test_a_worker_whose_memory_runs_out_ends_the_job_and_says_what_to_lower(
    ray_cluster: Cluster, model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    text = "The quick brown fox jumps over the lazy dog. " * 150
    path.write_text("".join(json.dumps({"id": f"r{n}", "text": text}) + "\n" for n in range(32)))
    spec = finetune_spec(
        model_path,
        path,
        data={"train": str(path), "eval_fraction": 0.0},
        schedule={"max_length": 2048, "batch_size": 32, "micro_batch_size": 16},
    )
    asked = {"spec": spec.canonical(), "storage": str(ray_cluster.storage), "id": "tiny-exhausted"}
    done = subprocess.run(
        [sys.executable, EXHAUSTED, json.dumps(asked)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    error = json.loads(done.stdout.splitlines()[-1])
    assert (error["type"], error["where"]) == ("OutOfMemoryError", "worker 1")
    assert re.match(r"worker 1 ran out of memory \([\d.]+ of the machine's [\d.]+ GiB\): .*allocate", error["what"])
    assert "lower schedule.micro_batch_size or max_length" in error["remedy"]
    records = metrics.read(ray_cluster.storage / "jobs" / asked["id"] / job.METRICS)
    assert (len(metrics.starts(records)), metrics.steps(records)) == (1, [])  # nothing was tried again


def test_what_ray_says_of_a_killed_process_is_understood(ray_cluster: Cluster) -> None:
    import ray
    from ray.exceptions import ActorDiedError

    @ray.remote(num_cpus=0)
    class Killed:
        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ActorDiedError) as died:
        ray.get(Killed.remote().die.remote(), timeout=DEADLINE_S)
    lost = killed_worker(died.value, worker=1)
    assert lost is not None
    assert lost.where == f"machine {ray.util.get_node_ip_address()}"

    # Whom Ray itself ends was told why.
    ended = Killed.remote()
    ray.kill(ended)
    with pytest.raises(ActorDiedError) as died:
        ray.get(ended.die.remote(), timeout=DEADLINE_S)
    assert killed_worker(died.value, worker=1) is None


def test_rows_that_would_be_cut_fail_the_job_before_it_trains(
    ray_cluster: Cluster, model_path: Path, rows_path: Path
) -> None:
    context = job_context(ray_cluster, "tiny-cut")
    with pytest.raises(DataError, match="the answer would be cut"):
        job.run(finetune_spec(model_path, rows_path, schedule={"max_length": 16}), context)
    reasons = [json.loads(line)["reason"] for line in context.quarantine_path.read_text().splitlines()]
    assert len(reasons) == 40
    assert not (context.dir / job.METRICS).exists()


def test_rows_longer_than_the_model_reads_fail_the_job_before_it_reads_any(
    ray_cluster: Cluster, model_path: Path, rows_path: Path
) -> None:
    context = job_context(ray_cluster, "tiny-long")
    with pytest.raises(ModelError, match="4096, and the model reads at most 2048 tokens"):
        job.run(finetune_spec(model_path, rows_path, schedule={"max_length": 4096}), context)
    assert not list(context.dir.glob("*examples"))


def test_more_workers_than_the_cluster_has_is_refused_at_once(
    ray_cluster: Cluster, model_path: Path, rows_path: Path
) -> None:
    context = job_context(ray_cluster, "tiny-many")
    with pytest.raises(InputError, match="64 workers with 1 CPUs each, and the cluster has 4"):
        job.run(finetune_spec(model_path, rows_path, workers=64, schedule={"batch_size": 128}), context)
