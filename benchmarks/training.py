"""How fast does the finetune job train, against Hugging Face's Trainer and TRL?

Each side runs in processes of its own, one after the other, in rounds that go forth and back, so that what slows the
machine for a while slows them all. Tokens are useful ones: those of the rows, without padding. All train the same
adapter from the same start; job and Trainer take the same rows in the same steps.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Result, versions
from benchmarks.training_runs import WARM_UP, demo_setting, rates, run_side, write_setting
from benchmarks.training_sides import PACKED_LENGTH, ROWS_IN_FLIGHT

SIDES = {"job": "tandem: job under Ray Train", "trainer": "Trainer, padded", "trl": "TRL SFTTrainer, packed"}
ROUNDS = 2
STEPS = 5


def run() -> Result:
    """Run all sides."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        setting = demo_setting(root, steps=STEPS)
        rounds: list[dict[str, dict[str, Any]]] = []
        for number in range(ROUNDS):
            folder = root / f"round-{number}"
            write_setting(folder, setting)
            # The other sides take the examples that the first round's job prepares. A job's folder is its own in each
            # round: in the first one's it would find its checkpoint, and have nothing to train.
            (folder / "prepared").symlink_to(root / "round-0" / "storage" / "job")
            order = list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]
            measured = {}
            for side in order:
                measured[side] = run_side(side, folder)
                said = ", ".join(f"{rate:.0f}" for rate in rates(measured[side]))
                print(f"{folder.name}, {SIDES[side]}: {said} tokens/s", flush=True)
            rounds.append(measured)
        losses = run_side("evaluate", root / "round-0")
    said = {
        "model": Path(setting.model).name,
        "steps": f"{ROUNDS} × {STEPS - WARM_UP}",
        "rows/step": setting.batch_size,
        "rows in flight": ROWS_IN_FLIGHT,
        "TRL's rows": f"{PACKED_LENGTH} tokens",
        "LoRA r": setting.rank,
    }
    return Result(
        "training",
        "useful tokens per second, and the held-out loss after as many steps",
        said,
        versions("torch", "transformers", "deepspeed", "ray", "peft", "trl"),
        _rows(rounds, losses),
    )


def _rows(rounds: list[dict[str, dict[str, Any]]], losses: dict[str, float]) -> list[dict[str, Any]]:
    medians = {side: statistics.median(rate for one in rounds for rate in rates(one[side])) for side in SIDES}
    rows = []
    for side, name in SIDES.items():
        tokens = sum(rounds[0][side]["tokens"][:STEPS])
        rows.append(
            {
                "contender": name,
                "tokens/s": medians[side],
                "job ÷ this": medians["job"] / medians[side],
                "tokens in all steps": tokens,
                "s for them": tokens / medians[side],
                "held-out loss": losses[side],
            }
        )
    rows.append(dict.fromkeys(rows[0], "–") | {"contender": "base model", "held-out loss": losses["base"]})
    return rows
