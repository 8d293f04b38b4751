"""Fine-tuning jobs on one GPU, each by the command that a submitted job is: ``python -m tandem.runner FOLDER``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from tandem.config.cluster import Cluster
from tandem.config.machine import cores
from tandem.training import metrics
from tandem.training.checkpoints.store import checkpoints, incomplete

STEPS = 30
LONG = 120  # steps of the run that is interrupted
DEADLINE_S = 300
# Of the GPU for each: they run side by side, and none needs more than a few GiB.
SHARE = 0.04
REPOSITORY = Path(__file__).parents[2]

FULL: dict[str, Any] = {"method": "full", "schedule": {"learning_rate": 0.002}}
LORA: dict[str, Any] = {"method": "lora", "schedule": {"learning_rate": 0.02}}
# What learns, and whose artifact is compared with its engine.
LEARNING: Mapping[str, dict[str, Any]] = {
    "full-zero0": FULL | {"deepspeed": 0},
    "full-zero1": FULL | {"deepspeed": 1},
    "full-zero2": FULL | {"deepspeed": 2},
    "full-zero3": FULL | {"deepspeed": 3},
    "full-zero2-offload": FULL | {"deepspeed": 2, "offload": {"optimizer": "cpu"}},
    "full-zero3-offload": FULL | {"deepspeed": 3, "offload": {"optimizer": "cpu", "param": "cpu"}},
    "full-fp16": FULL | {"precision": "fp16"},
    "full-fp32": FULL | {"precision": "fp32"},
    "full-checkpointing": FULL | {"gradient_checkpointing": True},
    "full-padded": FULL | {"schedule": FULL["schedule"] | {"packing": False}},
    "lora-zero2": LORA,
    "lora-zero3": LORA | {"deepspeed": 3},
    "qlora-zero2": LORA | {"method": "qlora"},
    "qlora-checkpointing": LORA | {"method": "qlora", "gradient_checkpointing": True},
}
# Of a model as large as SmolLM2-135M, all tokens with loss: what `tandem plan` foretells.
MEASURED: Mapping[str, dict[str, Any]] = {
    "memory-full-zero2": {"method": "full", "deepspeed": 2},
    "memory-full-zero2-checkpointing": {"method": "full", "deepspeed": 2, "gradient_checkpointing": True},
    "memory-full-zero3": {"method": "full", "deepspeed": 3},
    "memory-lora-zero2": {"method": "lora", "deepspeed": 2},
}


@dataclass(frozen=True)
class Job:
    """One of them.

    Attributes:
        folder: The job's.
        status: Its exit status, once it has ended.
    """

    folder: Path
    status: Future[int]

    def spec(self) -> dict[str, Any]:
        return self._read("spec.json")

    def records(self) -> list[dict[str, Any]]:
        """What the first worker has written."""
        return metrics.read(self.folder / "metrics.jsonl")

    def losses(self) -> list[float]:
        return [record["loss"] for record in metrics.steps(self.records())]

    def start(self) -> dict[str, Any]:
        """What the only attempt began with, of a job that ended well."""
        self.result()
        (start,) = metrics.starts(self.records())
        return start

    def error(self) -> dict[str, Any]:
        """What it failed of."""
        assert self.status.result(DEADLINE_S) != 0
        return self._read("error.json")

    def result(self) -> dict[str, Any]:
        """What it has to say, once it has ended well."""
        assert self.status.result(DEADLINE_S) == 0, (self.folder / "log").read_text()[-6000:]
        return self._read("result.json")

    def _read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / name).read_text())
        return found


class Jobs:
    """Runs jobs, several at a time, and knows them by name.

    Args:
        cluster: With a GPU.
        model: A tiny one, with its tokenizer.
        folder: For rows and models.
    """

    def __init__(self, cluster: Cluster, model: Path, folder: Path) -> None:
        self.cluster = cluster
        self.model = model
        self._folder = folder
        self._pool = ThreadPoolExecutor(max(1, min(8, cores() // 2)))
        self._jobs: dict[str, Job] = {}
        self._running: set[subprocess.Popen[bytes]] = set()
        numbers = [{"id": f"r{n}", "question": f"What is number {n}?", "answers": [str(n * 7 % 10)]} for n in range(80)]
        self._rows = self._write("numbers.jsonl", numbers)

    def __getitem__(self, name: str) -> Job:
        return self._jobs[name]

    def begin(self) -> None:
        """Have all jobs run, those first that take longest."""
        import ray

        long = FULL | {"schedule": FULL["schedule"] | {"max_steps": LONG}}
        long |= {"deepspeed": 2, "checkpoint": {"every_steps": 5, "upload": "sync"}}
        self._add("deepspeed-json", **LORA, deepspeed=str(REPOSITORY / "jobs" / "deepspeed" / "zero2.json"))
        self._add("interrupted", self._interrupted, **long)
        for name in sorted(LEARNING, key=lambda name: "offload" not in name):
            self._add(name, **LEARNING[name])
        self._add("undisturbed", **long)
        self._add_classes()
        self._add_too_large()
        self._add_measured()
        # It leaves open how many GPUs, and names their type as Ray does: it waits until it has one to itself.
        types = [key.partition(":")[2] for key in ray.cluster_resources() if key.startswith("accelerator_type:")]
        self._add("whole-gpu", **LORA, accelerator_type=types[0], gpus_per_worker=None)

    def close(self) -> None:
        """End what still runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._running:
            process.kill()

    def _add(self, name: str, run: Callable[[Path], int] | None = None, **fields: Any) -> None:
        """Queue a job of the tiny model; what isn't named is as the other jobs have it."""
        schedule = {"max_steps": STEPS, "epochs": 1000, "batch_size": 8, "micro_batch_size": 4, "max_length": 256}
        spec = {
            "kind": "finetune",
            "name": name,
            "model": str(self.model),
            "data": {"train": str(self._rows), "eval_fraction": 0.2},
            "lora": {"r": 8, "alpha": 16},
            "gpus_per_worker": SHARE,
            "checkpoint": {"every_steps": 10},
            "early_stopping": {"enabled": False},
            **fields,
            "schedule": schedule | fields.get("schedule", {}),
        }
        folder = self.cluster.storage / "jobs" / name
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(spec))
        self._jobs[name] = Job(folder, self._pool.submit(run or self._whole, folder))

    def _whole(self, folder: Path) -> int:
        return self._start(folder).wait(DEADLINE_S)

    def _interrupted(self, folder: Path) -> int:
        """Kill the driver, as a lost machine would, when a checkpoint is stored; then run the job again."""
        process = self._start(folder)
        while process.poll() is None and not any(incomplete(found) is None for found in checkpoints(folder / "train")):
            Event().wait(0.01)
        process.kill()
        return self._start(folder).wait(DEADLINE_S)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        environment = os.environ | self.cluster.ray_env()
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tandem.runner", str(folder)], env=environment, stdout=log, stderr=log
            )
        self._running.add(process)
        return process

    def _write(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self._folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def _add_measured(self) -> None:
        model = write_wide(self._folder / "smol", self.model, vocabulary=49152, hidden=576, layers=30)
        schedule = {"max_steps": 4, "batch_size": 8, "micro_batch_size": 4, "max_length": 1024}
        fields = {"model": str(model), "data": self._texts(model, tokens=1000), "schedule": schedule}
        for name, method in MEASURED.items():
            self._add(name, **fields, **method)

    def _add_too_large(self) -> None:
        # The logits of a pass alone are larger than any GPU: 131,072 tokens of 1,048,576 words in 16 bits.
        model = write_wide(self._folder / "wide", self.model, vocabulary=1 << 20, hidden=64, layers=1)
        schedule = {"max_steps": 2, "batch_size": 64, "micro_batch_size": 64, "max_length": 2048, "packing": False}
        fields = {"model": str(model), "data": self._texts(model, tokens=2000), "schedule": schedule}
        self._add("too-large", **fields)

    def _add_classes(self) -> None:
        rows = [
            {"text": f"{'foxes jump over' if n % 2 else 'documents answer'} number {n}", "label": f"l{n % 2}"}
            for n in range(80)
        ]
        path = self._write("classes.jsonl", rows)
        fields = {"task": "classification", "data": {"train": str(path), "eval_fraction": 0.2}}
        self._add("classes", **FULL, **fields)

    def _texts(self, model: Path, *, tokens: int) -> dict[str, Any]:
        from tiny_models import TEXT
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        text = tokenizer.decode(tokenizer(TEXT * tokens)["input_ids"][:tokens])
        path = self._write(f"texts-{tokens}.jsonl", [{"id": f"t{n}", "text": f"{n} {text}"} for n in range(64)])
        return {"train": str(path), "eval_fraction": 0.0}


def write_wide(folder: Path, like: Path, *, vocabulary: int, hidden: int, layers: int) -> Path:
    """A random Llama of another size with the same tokenizer, which uses the first few words of its vocabulary."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    config = AutoConfig.from_pretrained(like)
    config.update(
        {
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": hidden * 8 // 3,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "num_key_value_heads": max(1, hidden // 192),
            "head_dim": 64,
        }
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder
