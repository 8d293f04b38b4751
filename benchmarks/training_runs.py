"""Starting one side of a training benchmark in a process of its own, and reading what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.training_data import ROOT, write_chats
from benchmarks.training_sides import Setting

WARM_UP = 1  # steps that don't count
EVALUATED = 32  # rows of the held-out ones


def write_setting(folder: Path, setting: Setting) -> None:
    """Where the sides look for it."""
    folder.mkdir()
    (folder / "setting.json").write_text(json.dumps(asdict(setting)))


def demo_setting(folder: Path, *, steps: int) -> Setting:
    """The demo's questions as chats, for an adapter on two workers."""
    from tandem.config.cluster import storage_path
    from tandem.models.loading import model_path
    from tandem.specs.loading import read_yaml

    chats = write_chats(folder)
    held_out = chats["eval"].read_text().splitlines(keepends=True)
    chats["eval"].write_text("".join(held_out[:EVALUATED]))
    model = read_yaml(ROOT / "jobs" / "finetune.yaml").data["model"]
    return Setting(
        model=str(model_path(model, storage=storage_path())),
        train=str(chats["train"]),
        eval=str(chats["eval"]),
        steps=steps,
        batch_size=8,
        learning_rate=5e-4,
        rank=16,
        workers=2,
    )


def run_side(side: str, folder: Path) -> dict[str, Any]:
    """Run a side; with a Ray head of its own if it is the job.

    Raises:
        SystemExit: It failed; with the end of its log.
    """
    if side == "job":
        with ray_head() as address:
            return _python(side, folder, RAY_ADDRESS=address)
    return _python(side, folder)


def _python(side: str, folder: Path, **environment: str) -> dict[str, Any]:
    log = folder / f"{side}.log"
    setting = json.loads((folder / "setting.json").read_text())
    workers = setting["workers"]
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", "-m"]
    command = [sys.executable, "-m", *(torchrun if side == "torchrun" else []), "benchmarks.training_sides"]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if not setting["gpus"]:
        quiet["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("w") as output:
        done = subprocess.run(
            [*command, side, str(folder)],
            cwd=ROOT,
            env=os.environ | quiet | environment,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{log.read_text()[-4000:]}")
    found: dict[str, Any] = json.loads((folder / f"{side}.json").read_text())
    return found


@contextmanager
def ray_head() -> Iterator[str]:
    """A Ray head as a job finds it, for as long as the job runs: beside the others it would only take time."""
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Ray's sockets lie under its temp folder, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        context = ray.init(
            address="local",
            num_cpus=os.cpu_count(),
            include_dashboard=True,
            dashboard_port=0,
            log_to_driver=False,
            _temp_dir=scratch,
        )
        try:
            yield context.address_info["gcs_address"]
        finally:
            ray.shutdown()


def rates(measured: dict[str, Any]) -> list[float]:
    """Useful tokens per second of each step that counts."""
    pairs = list(zip(measured["tokens"], measured["seconds"], strict=False))[WARM_UP:]
    return [tokens / seconds for tokens, seconds in pairs]
