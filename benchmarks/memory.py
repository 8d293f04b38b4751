"""What does a worker need under ZeRO 0 to 3, and how near is the estimate of `tandem plan`?

Two gloo workers train a random Llama of 38 million parameters, every token with loss, in processes of their own.
Measured is the peak of anonymous memory (not the mapped weights file) over what the process had before it had a model.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from benchmarks.report import Result, versions

WORKERS, MICRO, LENGTH, STEPS = 2, 2, 256, 3
CASES = [("full", stage, "bf16") for stage in (0, 1, 2, 3)] + [
    ("full", 2, "fp32"),
    ("lora", 0, "bf16"),
    ("lora", 2, "bf16"),
    ("lora", 3, "bf16"),
]
MIB = 2**20


def run() -> Result:
    """Measure every case."""
    from torch import multiprocessing

    from tandem.training.methods.memory import IMPORTS, estimate
    from tandem.training.methods.model_shape import read_shape

    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed leaves the process, and the peak is a tensor's
    os.environ["DS_ACCELERATOR"] = "cpu"
    # Imported once: each pair of workers is a fork of a process that has no model and no threads.
    multiprocessing.set_forkserver_preload(["deepspeed", "peft", "transformers.models.llama.modeling_llama"])
    rows = []
    with tempfile.TemporaryDirectory() as name:
        model = _model(Path(name) / "model")
        for method, stage, precision in CASES:
            for checkpointing in (False, True) if (method, stage) == ("full", 2) and precision == "bf16" else (False,):
                spec = _spec(model, method, stage, precision, checkpointing)
                measured = _measure(spec, Path(name))
                settings = _settings(spec)
                shape = read_shape(model / "config.json", spec)
                said = estimate(shape, settings)
                ours = said.total - IMPORTS
                print(f"{method}, {stage}, {precision}: {measured['peak'] / MIB:.0f} MiB, estimated {ours / MIB:.0f}")
                rows.append(
                    {
                        "case": f"{method}, {stage}, {precision}" + (", checkpointing" if checkpointing else ""),
                        "measured, MiB": measured["peak"] / MIB,
                        "estimated, MiB": ours / MIB,
                        "÷": ours / measured["peak"],
                        "process, MiB": measured["before"] / MIB,
                    }
                )
    return Result(
        "memory",
        "peak memory per worker against the estimate",
        {"workers": WORKERS, "micro_batch_size": MICRO, "tokens": LENGTH, "device": "cpu"},
        versions("torch", "deepspeed", "transformers", "peft"),
        rows,
    )


def _model(folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _spec(model: Path, method: str, stage: int, precision: str, checkpointing: bool) -> Any:
    from tandem.specs.finetune import FinetuneSpec

    return FinetuneSpec.model_validate(
        {
            **{"kind": "finetune", "name": "memory", "model": str(model), "data": {"train": "none.jsonl"}},
            **{"method": method, "deepspeed": stage, "precision": precision, "workers": WORKERS},
            "gradient_checkpointing": checkpointing,
            "schedule": {"batch_size": MICRO * WORKERS, "micro_batch_size": MICRO, "max_length": LENGTH},
        }
    )


def _settings(spec: Any) -> Any:
    from tandem.training.methods.deepspeed import Hardware, build_config, combination
    from tandem.training.methods.memory import settings_of

    hardware = Hardware(cuda=False, bf16=True)
    built = build_config(spec, None, hardware)
    return settings_of(
        combination(spec, built, hardware) | {"precision": spec.precision},
        workers=WORKERS,
        micro_batch_size=MICRO,
        max_length=LENGTH,
        gradient_checkpointing=spec.gradient_checkpointing,
        bucket=built["zero_optimization"].get("reduce_bucket_size", 0),
    )


def _measure(spec: Any, folder: Path) -> dict[str, float]:
    """Of the worker that needed most."""
    import torch.multiprocessing

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    arguments = (spec.model_dump_json(), str(folder), port)
    torch.multiprocessing.start_processes(_work, arguments, nprocs=WORKERS, start_method="forkserver")
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORKERS)]
    return max(found, key=lambda facts: float(facts["peak"]))


def _work(rank: int, spec_json: str, folder: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORKERS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    from tandem.specs.finetune import FinetuneSpec
    from tandem.training.loop_config import LoopConfig
    from tandem.training.loss import completion_loss
    from tandem.training.methods.engine import build_engine, configure
    from tandem.training.methods.model import load_model
    from tandem.training.tasks import Generation

    torch.set_num_threads(1)
    spec = FinetuneSpec.model_validate_json(spec_json)
    fields: dict[str, Any] = dict.fromkeys(LoopConfig.__dataclass_fields__)
    config = LoopConfig(**fields | {"spec": spec, "model": spec.model, "steps": STEPS, "cuda": False})
    settings = configure(config)
    before = _anonymous()
    watch = Watch()
    engine = build_engine(load_model(config, Generation(packing=False), settings), config, settings)
    torch.manual_seed(rank)
    ids = torch.randint(0, 8192, (MICRO, LENGTH))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    engine.train()
    for _ in range(STEPS):
        head = engine.module.get_output_embeddings()
        engine.backward(completion_loss(engine, head, ids, torch.ones_like(ids), mask) / mask.sum())
        engine.step()
    peak = watch.stop()
    facts = {"peak": peak - before, "before": before}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(facts))
    torch.distributed.destroy_process_group()


def _anonymous() -> int:
    """Bytes of this process that no file backs."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


class Watch:
    """Looks every few milliseconds how much there is."""

    def __init__(self) -> None:
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.002):
            self._peak = max(self._peak, _anonymous())

    def stop(self) -> int:
        """The peak, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak
