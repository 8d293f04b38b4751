"""Interrupted runs, on the same and on another number of workers, against runs that nobody disturbed.

The loop runs under torch's own launcher: several runs in one group of processes, so that a start is paid once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_llama

from tandem.training import metrics
from tandem.training.checkpoints.store import checkpoint_step, checkpoints
from tandem.training.data.dataset import Examples

WORKER = Path(__file__).parents[1] / "stand_ins" / "training_group.py"
STEPS = 7
DEADLINE_S = 240
BROKEN = {"truncated": [4], "all-broken": [2, 4]}  # folder of a run: which of its checkpoints are
STOPPED = ["lora zero2 fp32", "full zero3 fp32"]
CASES = [f"{method} zero{stage} fp32" for method in ("lora", "full") for stage in (1, 2, 3)]
SAME_WORKERS = [*CASES, "lora zero0 fp32", "full zero1 bf16", "lora zero3 bf16"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    write_llama(root / "model", hidden=32)
    chance = np.random.default_rng(0)
    for file, rows in (("train-examples", 40), ("eval-examples", 6)):
        sequences = []
        for _ in range(rows):
            # Each token is its predecessor and one more: there is something to learn.
            begin, length = int(chance.integers(10, 40)), int(chance.integers(6, 14))
            sequences.append(([begin + n for n in range(length)], [n > 1 for n in range(length)]))
        Examples.pack(sequences).save(root / file)
    return root


def item(root: Path, folder: str, case: str = "lora zero2 fp32", **fields: Any) -> dict[str, Any]:
    (root / folder).mkdir(exist_ok=True)
    method, stage, precision = case.split()
    how = {"interrupts": [], "unfinished": False, "told": STEPS + 1}
    how |= {key: fields.pop(key) for key in how if key in fields}
    schedule = {"max_steps": STEPS, "learning_rate": 0.01, "batch_size": 8, "micro_batch_size": 2, "epochs": 100}
    spec = {
        "kind": "finetune",
        "name": "tiny",
        "model": str(root / "model"),
        "data": {"train": "train-examples"},
        "method": method,
        "lora": {"r": 4, "dropout": 0.1},
        "precision": precision,
        "deepspeed": int(stage.removeprefix("zero")),
        "workers": [1, 2],
        "schedule": {**schedule, **fields.pop("schedule", {})},
        "checkpoint": {"every_steps": 2},
        **fields,
    }
    return {"folder": str(root / folder), "spec": spec, **how}


def launch(root: Path, workers: int, runs: list[dict[str, Any]]) -> None:
    file = root / f"runs-{workers}.json"
    file.write_text(json.dumps(runs))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", WORKER, file],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def curve(root: Path, folder: str) -> dict[str, float]:
    """What the run measured, by figure and step."""
    records = metrics.steps(metrics.read(root / folder / "metrics.jsonl"))
    names = ("loss", "eval_loss", "grad_norm")
    return {f"{name} {record['step']}": record[name] for record in records for name in names if name in record}


@pytest.fixture(scope="module")
def on_two_workers(root: Path) -> Path:
    runs = []
    for case in SAME_WORKERS:
        runs += [item(root, f"{case} whole", case), item(root, f"{case} twice", case, interrupts=[3, 3])]
    runs += [item(root, f"{case} 2to1", case, interrupts=[5], unfinished=True) for case in CASES]
    for folder in BROKEN:
        runs.append(item(root, folder, interrupts=[5], unfinished=True))
    runs.append(item(root, "told", interrupts=[4], told=3))
    # The learning rate rises until the loss does.
    rising = {"learning_rate": 1.0, "warmup": 1.0, "max_steps": 40}
    for case in STOPPED:
        stopping = {"schedule": rising, "checkpoint": {"every_steps": 2, "keep": 1}, "early_stopping": {"patience": 2}}
        runs.append(item(root, f"stopped {case}", case, **stopping))
    launch(root, 2, runs)
    return root


@pytest.fixture(scope="module")
def on_one_worker(on_two_workers: Path) -> Path:
    root = on_two_workers
    runs = []
    for case in CASES:
        runs += [
            item(root, f"{case} 2to1", case),
            item(root, f"{case} alone", case),
            item(root, f"{case} 1to2", case, interrupts=[5], unfinished=True),
        ]
    launch(root, 1, runs)
    return root


@pytest.fixture(scope="module")
def on_two_again(on_one_worker: Path) -> Path:
    root = on_one_worker
    runs = [item(root, f"{case} 1to2", case) for case in CASES]
    for folder, steps in BROKEN.items():
        for step in steps:
            (path,) = (root / folder / "checkpoints" / f"step-{step:06d}").glob("*/mp_rank_00_model_states.pt")
            path.write_bytes(path.read_bytes()[:-100])
        runs.append(item(root, folder))
    launch(root, 2, runs)
    return root


@pytest.mark.parametrize("case", SAME_WORKERS)
def test_interrupted_twice_the_curve_is_that_of_an_undisturbed_run(on_two_workers: Path, case: str) -> None:
    whole = curve(on_two_workers, f"{case} whole")
    assert {f"loss {step}" for step in range(1, STEPS + 1)} < set(whole)
    # After step 3 it goes on from 2, and three steps later, after 5, from 4.
    records = metrics.read(on_two_workers / f"{case} twice" / "metrics.jsonl")
    assert [start["started_at_step"] for start in metrics.starts(records)] == [0, 2, 4]
    assert curve(on_two_workers, f"{case} twice") == whole


@pytest.mark.parametrize("direction", ["2to1", "1to2"])
@pytest.mark.parametrize("case", CASES)
def test_on_another_number_of_workers_the_curve_stays_within_a_thousandth(
    on_two_again: Path, case: str, direction: str
) -> None:
    folder = f"{case} {direction}"
    starts = metrics.starts(metrics.read(on_two_again / folder / "metrics.jsonl"))
    assert [start["workers"] for start in starts] == [int(direction[0]), int(direction[-1])]
    assert starts[-1]["started_at_step"] == 4
    assert starts[-1]["workers_before"] == int(direction[0])
    assert curve(on_two_again, folder) == pytest.approx(curve(on_two_again, f"{case} alone"), rel=1e-3)
    assert [path.name for path in (on_two_again / folder / "checkpoints").iterdir() if "universal" in path.name] == []
    assert len(checkpoints(on_two_again / folder / "checkpoints")) >= 2


@pytest.mark.parametrize(("folder", "start"), [("truncated", 2), ("all-broken", 0)])
def test_broken_checkpoints_are_skipped_and_named_and_cost_steps_alone(
    on_two_again: Path, folder: str, start: int
) -> None:
    records = metrics.read(on_two_again / folder / "metrics.jsonl")
    first, second = metrics.starts(records)
    assert (first["started_at_step"], second["started_at_step"]) == (0, start)
    assert [skipped["name"] for skipped in second["skipped_checkpoints"]] == [
        f"step-{step:06d}" for step in reversed(BROKEN[folder])
    ]
    assert all("mp_rank_00_model_states.pt has" in skipped["why"] for skipped in second["skipped_checkpoints"])
    assert curve(on_two_again, folder) == curve(on_two_again, "lora zero2 fp32 whole")


def test_told_that_a_machine_goes_away_it_saves_at_once(on_two_workers: Path) -> None:
    starts = metrics.starts(metrics.read(on_two_workers / "told" / "metrics.jsonl"))
    assert [start["started_at_step"] for start in starts] == [0, 3]
    assert curve(on_two_workers, "told") == curve(on_two_workers, "lora zero2 fp32 whole")


@pytest.mark.parametrize("case", STOPPED)
def test_a_loss_that_rises_stops_training_and_the_best_weights_remain(on_two_workers: Path, case: str) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tandem.training.loss import completion_loss

    folder = on_two_workers / f"stopped {case}"
    records = metrics.steps(metrics.read(folder / "metrics.jsonl"))
    evaluated = {record["step"]: record["eval_loss"] for record in records if "eval_loss" in record}
    best = min(evaluated, key=lambda step: evaluated[step])
    ended = metrics.ending(metrics.read(folder / "metrics.jsonl"))
    assert ended["step"] == best + 4 < 40
    assert f"hasn't fallen in 2 evaluations: {evaluated[best]:.4g} at step {best}" in ended["stopped"]
    assert ended["weights_step"] == best
    assert [checkpoint_step(path) for path in checkpoints(folder / "checkpoints")] == [best, ended["step"]]

    if case.startswith("lora"):
        base = AutoModelForCausalLM.from_pretrained(on_two_workers / "model")
        model = PeftModel.from_pretrained(base, folder / "out")
    else:
        model = AutoModelForCausalLM.from_pretrained(folder / "out")
    examples = Examples.load(on_two_workers / "eval-examples")
    everything = range(len(examples))
    with torch.no_grad():
        batch = examples.collate(everything, pad_id=0)
        loss = completion_loss(model.eval(), model.get_output_embeddings(), *batch)
    assert float(loss) / examples.loss_weight(everything) == pytest.approx(evaluated[best], rel=1e-4)
