"""Interrupted runs, on the same and on another number of workers, against runs that nobody disturbed.

The loop runs under torch's own launcher: several runs in one group of processes, so that a start is paid once. Where
they are interrupted is drawn anew each time; a test that fails says the seed with which it can be run again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES, write_family, write_llama

from tandem.training import metrics
from tandem.training.checkpoints.store import checkpoint_step, checkpoints
from tandem.training.data.dataset import Examples

WORKER = Path(__file__).parents[1] / "stand_ins" / "training_group.py"
STEPS = 7
DEADLINE_S = 600
SEED = int(os.environ.get("TANDEM_TEST_SEED") or int.from_bytes(os.urandom(4)))
CHANCE = random.Random(SEED)
EVERY = 2  # steps from checkpoint to checkpoint
BROKEN = {"truncated": [4], "all-broken": [2, 4]}  # folder of a run: which of its checkpoints are
STOPPED = ["lora zero2 fp32", "full zero3 fp32"]
CASES = [f"{method} zero{stage} fp32" for method in ("lora", "full") for stage in (1, 2, 3)]
BF16 = "full zero1 bf16"
SAME_WORKERS = [*CASES, "lora zero0 fp32", BF16, "lora zero3 bf16", *(f"lora zero2 fp32 {name}" for name in FAMILIES)]
# Four rows a pass go on one worker but not on two: three go on both.
UNEVEN = "lora zero2 fp32 uneven"
SCHEDULES = {"uneven": {"batch_size": 12, "micro_batch_size": 4}}
OTHER_WORKERS = [
    *((case, direction) for case in CASES for direction in ("2to1", "1to2")),
    (UNEVEN, "2to1"),
    (BF16, "2to1"),
]
TOLERANCE = {"fp32": 1e-5, "bf16": 5e-3}  # relative; forty and six times what was measured


def resumed_at(steps: int) -> int:
    """The step of the last checkpoint before a run was interrupted after so many: just before it would have saved."""
    return (steps - 1) // EVERY * EVERY


# The steps that each run makes before it is interrupted, by its folder: some checkpoint may be there at the first time.
INTERRUPTS: dict[str, list[int]] = {}
for _case in SAME_WORKERS:
    _first = CHANCE.randint(1, STEPS)
    INTERRUPTS[f"{_case} twice"] = [_first, CHANCE.randint(1, STEPS - resumed_at(_first))]
for _case, _direction in OTHER_WORKERS:
    INTERRUPTS[f"{_case} {_direction}"] = [CHANCE.randint(EVERY + 1, STEPS)]
INTERRUPTS |= {folder: [CHANCE.randint(5, 6)] for folder in BROKEN}  # after the checkpoints of steps 2 and 4
TOLD = CHANCE.randrange(1, STEPS - 1, EVERY)  # where no checkpoint is due
INTERRUPTS["told"] = [TOLD + 1]
INTERRUPTS["aside"] = [STEPS + 1]  # it ends by itself


@pytest.fixture(autouse=True)
def say_seed() -> None:
    print(f"TANDEM_TEST_SEED={SEED}")  # pytest shows it where a test fails


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    write_llama(root / "model", hidden=32)
    for family in FAMILIES:
        write_family(root / family, family)
    chance = np.random.default_rng(0)
    for file, rows in (("train-examples", 40), ("eval-examples", 6)):
        sequences = []
        for _ in range(rows):
            # Each token is its predecessor and one more: there is something to learn.
            begin, length = int(chance.integers(10, 40)), int(chance.integers(6, 14))
            sequences.append(([begin + n for n in range(length)], [n > 1 for n in range(length)]))
        Examples.pack(sequences).save(root / file)
    (root / "disk").mkdir()
    write_odd(root / "odd", beside=root)
    return root


def write_odd(folder: Path, *, beside: Path) -> None:
    """A model that knows one token only as no number, and held-out rows two of which have it."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(beside / "model", folder / "model")
    shutil.copytree(beside / "train-examples", folder / "train-examples")
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights = load_file(folder / "model" / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.clone()
    embedding[300] = float("nan")
    save_file(weights, folder / "model" / "model.safetensors", {"format": "pt"})
    rows = [[token, token + 1, 300 if token > 12 else token + 2, token + 3] for token in range(10, 15)]
    Examples.pack([(row, [False, False, True, True]) for row in rows]).save(folder / "eval-examples")


def item(root: Path, folder: str, case: str = "lora zero2 fp32", **fields: Any) -> dict[str, Any]:
    (root / folder).mkdir(exist_ok=True)
    method, stage, precision, *other = case.split()
    how = {"interrupts": [], "unfinished": False, "told": STEPS + 1, "aside": False, "torn": False}
    how |= {key: fields.pop(key) for key in how if key in fields}
    schedule = {"max_steps": STEPS, "learning_rate": 0.01, "batch_size": 8, "micro_batch_size": 2, "epochs": 100}
    spec = {
        "kind": "finetune",
        "name": "tiny",
        "model": str(root / (other[0] if other and other[0] in FAMILIES else "model")),
        "data": {"train": "train-examples"},
        "method": method,
        "lora": {"r": 4, "dropout": 0.1},
        "precision": precision,
        "deepspeed": int(stage.removeprefix("zero")),
        "workers": [1, 2],
        "schedule": {**schedule, **SCHEDULES.get(" ".join(other), {}), **fields.pop("schedule", {})},
        "checkpoint": {"every_steps": EVERY},
        **fields,
    }
    return {"folder": str(root / folder), "spec": spec, **how}


def begun(root: Path, folder: str, case: str = "lora zero2 fp32", **fields: Any) -> dict[str, Any]:
    return item(root, folder, case, interrupts=INTERRUPTS[folder], **fields)


def launch(root: Path, workers: int, runs: list[dict[str, Any]]) -> None:
    file = root / f"runs-{workers}.json"
    file.write_text(json.dumps(runs))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}", WORKER, file],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "TMPDIR": str(root / "disk")},
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


def curve(root: Path, folder: str) -> dict[str, float]:
    """What the run measured, by figure and step."""
    records = metrics.steps(metrics.read(root / folder / "metrics.jsonl"))
    names = ("loss", "eval_loss", "grad_norm")
    return {f"{name} {record['step']}": record[name] for record in records for name in names if name in record}


def held_out_loss(model: Any, root: Path) -> float:
    """Per token that carries loss, of a model that transformers or PEFT has loaded."""
    import torch

    from tandem.training.loss import completion_loss

    examples = Examples.load(root / "eval-examples")
    everything = range(len(examples))
    with torch.no_grad():
        batch = examples.collate(everything, pad_id=0)
        loss = completion_loss(model.eval(), model.get_output_embeddings(), *batch)
    return float(loss) / examples.loss_weight(everything)


@pytest.fixture(scope="module")
def on_two_workers(root: Path) -> Path:
    runs = []
    for case in SAME_WORKERS:
        runs += [item(root, f"{case} whole", case), begun(root, f"{case} twice", case)]
    runs += [begun(root, f"{case} {way}", case, unfinished=True) for case, way in OTHER_WORKERS if way == "2to1"]
    runs += [begun(root, folder, unfinished=True) for folder in BROKEN]
    runs.append(begun(root, "told", told=TOLD))
    runs.append(begun(root, "aside", told=TOLD, aside=True))
    runs.append(item(root, "torn", torn=True))
    runs.append(item(root / "odd", "run"))
    # The learning rate rises until the loss does.
    rising = {"learning_rate": 1.0, "warmup": 1.0, "max_steps": 40}
    for case in STOPPED:
        stopping = {
            "schedule": rising,
            "checkpoint": {"every_steps": EVERY, "keep": 1},
            "early_stopping": {"patience": 2},
        }
        runs.append(item(root, f"stopped {case}", case, **stopping))
    launch(root, 2, runs)
    return root


@pytest.fixture(scope="module")
def on_one_worker(on_two_workers: Path) -> Path:
    root = on_two_workers
    runs = [item(root, f"{case} alone", case) for case in dict(OTHER_WORKERS)]
    for case, way in OTHER_WORKERS:
        folder = f"{case} {way}"
        runs.append(item(root, folder, case) if way == "2to1" else begun(root, folder, case, unfinished=True))
    launch(root, 1, runs)
    return root


@pytest.fixture(scope="module")
def on_two_again(on_one_worker: Path) -> Path:
    root = on_one_worker
    runs = [item(root, f"{case} {way}", case) for case, way in OTHER_WORKERS if way == "1to2"]
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
    # Interrupted after step 3, say, it goes on from 2, and interrupted three steps later, after 5, from 4.
    first, second = INTERRUPTS[f"{case} twice"]
    begins = [0, resumed_at(first), resumed_at(resumed_at(first) + second)]
    records = metrics.read(on_two_workers / f"{case} twice" / "metrics.jsonl")
    assert [start["started_at_step"] for start in metrics.starts(records)] == begins
    assert curve(on_two_workers, f"{case} twice") == whole


@pytest.mark.parametrize(("case", "direction"), OTHER_WORKERS)
def test_on_another_number_of_workers_the_curve_stays_that_of_one_within_rounding(
    on_two_again: Path, case: str, direction: str
) -> None:
    folder = f"{case} {direction}"
    starts = metrics.starts(metrics.read(on_two_again / folder / "metrics.jsonl"))
    assert [start["workers"] for start in starts] == [int(direction[0]), int(direction[-1])]
    assert starts[-1]["started_at_step"] == resumed_at(*INTERRUPTS[folder])
    assert starts[-1]["workers_before"] == int(direction[0])
    alone = curve(on_two_again, f"{case} alone")
    assert curve(on_two_again, folder) == pytest.approx(alone, rel=TOLERANCE[case.split()[2]])
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


@pytest.mark.parametrize("folder", ["told", "aside"])
def test_told_that_a_machine_goes_away_or_that_it_must_step_aside_it_saves_at_once(
    on_two_workers: Path, folder: str
) -> None:
    starts = metrics.starts(metrics.read(on_two_workers / folder / "metrics.jsonl"))
    assert [start["started_at_step"] for start in starts] == [0, TOLD]
    assert curve(on_two_workers, folder) == curve(on_two_workers, "lora zero2 fp32 whole")


def test_a_checkpoint_that_never_left_the_machine_leaves_nothing_there(on_two_workers: Path) -> None:
    starts = metrics.starts(metrics.read(on_two_workers / "torn" / "metrics.jsonl"))
    assert [start["started_at_step"] for start in starts] == [0, 0]
    assert curve(on_two_workers, "torn") == curve(on_two_workers, "lora zero2 fp32 whole")
    assert list((on_two_workers / "disk").glob("tandem-checkpoint-*")) == []


def test_held_out_rows_whose_loss_is_no_number_end_a_run_that_learns(on_two_workers: Path) -> None:
    folder = on_two_workers / "odd" / "run"
    losses = [record["loss"] for record in metrics.steps(metrics.read(folder / "metrics.jsonl"))]
    assert len(losses) == EVERY - 1  # the record of the step that was evaluated isn't written
    assert np.isfinite(losses).all()
    assert "held-out rows is nan at step 2: because of 2 of 5 rows (3, 4)" in (folder / "diverged").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_every_family_has_learnt_is_in_its_adapter(on_two_workers: Path, family: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = on_two_workers / f"lora zero2 fp32 {family} twice"
    base = AutoModelForCausalLM.from_pretrained(on_two_workers / family)
    untrained = held_out_loss(base, on_two_workers)
    measured = curve(on_two_workers, folder.name)
    ended = metrics.ending(metrics.read(folder / "metrics.jsonl"))
    loss = held_out_loss(PeftModel.from_pretrained(base, folder / "out"), on_two_workers)
    assert loss == pytest.approx(measured[f"eval_loss {ended['weights_step']}"], rel=1e-4)
    assert loss < untrained - 0.05


@pytest.mark.parametrize("case", STOPPED)
def test_a_loss_that_rises_stops_training_and_the_best_weights_remain(on_two_workers: Path, case: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

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
    assert held_out_loss(model, on_two_workers) == pytest.approx(evaluated[best], rel=1e-4)
