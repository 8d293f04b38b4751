"""How long does training stand still for a checkpoint, uploaded while it goes on and uploaded while it waits?

The same run both ways, in a process of its own each: full fine-tuning of a random Llama under ZeRO 2 on one worker.
What is stored is hashed and copied to another file system (/dev/shm), as it would be to a storage of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.report import Result, versions

HIDDEN, LAYERS = 512, 6
VOCABULARY = 8192
STEPS, EVERY = 18, 6
ROWS, TOKENS = 2, 64
REPEATS = 2


def run() -> Result:
    """Measure both, several times in turn."""
    measured: dict[str, list[dict[str, float]]] = {"sync": [], "async": []}
    for _ in range(REPEATS):
        for upload, runs in measured.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                runs.append(pool.submit(_measure, upload).result())
    rows = []
    for upload, runs in measured.items():
        best = min(runs, key=lambda figures: figures["stall_s"])
        rows.append({"upload": upload} | best)
    for row in rows:
        row["× sync"] = row["stall_s"] / rows[0]["stall_s"]
    return Result(
        "checkpoints",
        "seconds for which training stands still for one checkpoint",
        {"hidden": HIDDEN, "layers": LAYERS, "tokens_per_step": ROWS * TOKENS, "steps": STEPS, "every": EVERY},
        versions("torch", "deepspeed", "transformers"),
        rows,
    )


def _measure(upload: str) -> dict[str, Any]:
    from tandem.training import metrics
    from tandem.training.checkpoints.store import checkpoints
    from tandem.training.group import TorchrunGroup
    from tandem.training.worker import train

    folder = Path(tempfile.mkdtemp(prefix="tandem-bench-"))
    store = Path(tempfile.mkdtemp(prefix="tandem-bench-", dir="/dev/shm"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As if there were a worker per core: it computes in one thread, and storing has a core to itself, as beside a GPU.
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(os.cpu_count())}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        config = replace(_config(folder, upload), checkpoints=str(store))
        began = time.perf_counter()
        train(config, TorchrunGroup())
        seconds = time.perf_counter() - began
        records = metrics.read(folder / "metrics.jsonl")
        stored = checkpoints(store)[-1]
        made = STEPS // EVERY
        return {
            "checkpoint_mb": sum(path.stat().st_size for path in stored.rglob("*") if path.is_file()) / 1e6,
            "stall_s": metrics.ending(records)["checkpoint_stall_s"] / made,
            "step_s": sorted(record["step_s"] for record in metrics.steps(records))[STEPS // 2],
            "run_s": seconds,
        }
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(store)


def _config(folder: Path, upload: str) -> Any:
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tandem.specs.finetune import FinetuneSpec
    from tandem.training.data.dataset import Examples
    from tandem.training.loop_config import LoopConfig

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN // 64,
        num_key_value_heads=HIDDEN // 64,
    )
    LlamaForCausalLM(shape).save_pretrained(folder / "model")
    chance = np.random.default_rng(0)
    mask = [position > 0 for position in range(TOKENS)]
    rows = [(chance.integers(0, VOCABULARY, TOKENS).tolist(), mask) for _ in range(ROWS * STEPS)]
    Examples.pack(rows).save(folder / "train-examples")
    (folder / "out").mkdir()
    spec = FinetuneSpec.model_validate(
        {
            "kind": "finetune",
            "name": "checkpoints",
            "model": str(folder / "model"),
            "data": {"train": str(folder / "train-examples")},
            "method": "full",
            "precision": "fp32",
            "deepspeed": 2,
            "schedule": {"max_steps": STEPS, "batch_size": ROWS, "micro_batch_size": ROWS, "learning_rate": 1e-4},
            "checkpoint": {"every_steps": EVERY, "keep": 1, "upload": upload},
        }
    )
    return LoopConfig(
        spec=spec,
        model=str(folder / "model"),
        train=str(folder / "train-examples"),
        steps=STEPS,
        pad_id=0,
        packing=spec.schedule.packing,
        metrics=str(folder / "metrics.jsonl"),
        checkpoints="",
        output=str(folder / "out"),
        started_at=time.time(),
    )
