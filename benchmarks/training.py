"""How fast does the finetune job train, against its own loop without Ray, Hugging Face's Trainer and TRL?

Each side runs in processes of its own, one after the other, in rounds that go forth and back, so that what slows the
machine for a while slows them all. Tokens are useful ones: those of the rows, without padding. All train the same
adapter from the same start; job, torchrun and Trainer take the same rows in the same steps.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import Result, versions
from benchmarks.training_data import ROOT, write_chats
from benchmarks.training_sides import PACKED_LENGTH, ROWS_IN_FLIGHT, Setting

SIDES = {
    "job": "tandem: job under Ray Train",
    "torchrun": "tandem: its loop under torchrun",
    "trainer": "Trainer, padded",
    "trl": "TRL SFTTrainer, packed",
}
ROUNDS = 2
STEPS = 5
WARM_UP = 1  # steps that don't count
EVALUATED = 32  # rows of the held-out ones


def run() -> list[Result]:
    """Run all sides."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        setting = _setting(root)
        rounds = []
        for number in range(ROUNDS):
            folder = root / f"round-{number}"
            folder.mkdir()
            (folder / "setting.json").write_text(json.dumps(asdict(setting)))
            # The other sides take the examples that the first round's job prepares. A job's folder is its own in each
            # round: in the first one's it would find its checkpoint, and have nothing to train.
            (folder / "prepared").symlink_to(root / "round-0" / "storage" / "job")
            rounds.append(_round(folder, list(SIDES) if number % 2 == 0 else list(SIDES)[::-1], setting.workers))
        losses = _python("evaluate", root / "round-0")
    said = {
        "model": Path(setting.model).name,
        "steps": f"{ROUNDS} × {STEPS - WARM_UP}",
        "rows/step": setting.batch_size,
    }
    said |= {"rows in flight": ROWS_IN_FLIGHT, "TRL's rows": f"{PACKED_LENGTH} tokens", "LoRA r": setting.rank}
    packages = versions("torch", "transformers", "deepspeed", "ray", "peft", "trl")
    question = "useful tokens per second, and the held-out loss after as many steps"
    return [
        Result("training", question, said, packages, _rows(rounds, losses)),
        Result(
            "startup",
            "seconds from the start of the job's process to the end of its first step",
            said,
            packages,
            _startup(rounds),
        ),
    ]


def _setting(folder: Path) -> Setting:
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
        steps=STEPS,
        batch_size=8,
        learning_rate=5e-4,
        rank=16,
        workers=2,
    )


def _round(folder: Path, sides: list[str], workers: int) -> dict[str, dict[str, Any]]:
    measured = {}
    for side in sides:
        if side == "job":
            with _head() as address:
                measured[side] = _python(side, folder, RAY_ADDRESS=address)
        elif side == "torchrun":
            launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", "-m"]
            measured[side] = _python(side, folder, launcher=launcher)
        else:
            measured[side] = _python(side, folder)
        rates = ", ".join(f"{rate:.0f}" for rate in _rates(measured[side]))
        print(f"{folder.name}, {SIDES[side]}: {rates} tokens/s", flush=True)
    return measured


def _python(side: str, folder: Path, *, launcher: list[str] | None = None, **environment: str) -> dict[str, Any]:
    log = folder / f"{side}.log"
    command = [sys.executable, "-m", *(launcher or []), "benchmarks.training_sides", side, str(folder)]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | quiet | environment, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{log.read_text()[-4000:]}")
    found: dict[str, Any] = json.loads((folder / f"{side}.json").read_text())
    return found


@contextmanager
def _head() -> Iterator[str]:
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


def _rates(measured: dict[str, Any]) -> list[float]:
    pairs = list(zip(measured["tokens"], measured["seconds"], strict=False))[WARM_UP:]
    return [tokens / seconds for tokens, seconds in pairs]


def _rows(rounds: list[dict[str, dict[str, Any]]], losses: dict[str, float]) -> list[dict[str, Any]]:
    rates = {side: statistics.median(rate for one in rounds for rate in _rates(one[side])) for side in SIDES}
    rows = []
    for side, name in SIDES.items():
        tokens = sum(rounds[0][side]["tokens"][:STEPS])
        rows.append(
            {
                "contender": name,
                "tokens/s": rates[side],
                "job ÷ this": rates["job"] / rates[side],
                "tokens in all steps": tokens,
                "s for them": tokens / rates[side],
                "held-out loss": losses.get(side, "as the job's"),
            }
        )
    rows.append(dict.fromkeys(rows[0], "–") | {"contender": "base model", "held-out loss": losses["base"]})
    return rows


def _startup(rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    first = [one["job"]["startup"] for one in rounds]
    rows = [{"phase": phase, "s": statistics.median(one[phase] for one in first)} for phase in first[0]]
    return [*rows, {"phase": "in all", "s": statistics.median(sum(one.values()) for one in first)}]
