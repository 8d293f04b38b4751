"""Drills on two machines with networks of their own: the cable of one is pulled, and plugged in again later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from stand_ins.command_line import Tandem, until
from stand_ins.drills import Training, ends_once
from stand_ins.two_machines import TwoMachines, missing, two_machines
from tiny_models import write_embedder, write_llama

from tandem.orchestrator.local import down

STEPS = 40
EVERY = 5
QUESTIONS = 60
ARMS = ("base", "rag")
TRIES = 12  # a driver is on either machine by chance
pytestmark = pytest.mark.skipif(bool(missing()), reason=str(missing()))
Machine = Callable[[], list[psutil.Process]]


@pytest.fixture(scope="module")
def machines() -> Iterator[TwoMachines]:
    with two_machines() as running:
        yield running


@pytest.fixture(scope="module")
def tandem(tmp_path_factory: pytest.TempPathFactory, machines: TwoMachines) -> Iterator[Tandem]:
    made = Tandem(tmp_path_factory.mktemp("cut-off"))
    for name, spec in specs(made.folder, machines).items():
        (made.folder / f"{name}.yaml").write_text(json.dumps(spec))
    made("up", "cluster.yaml")
    try:
        ends_once(made, runs_on(made, machines.of_head, "index.yaml"))
        yield made
    finally:
        down(made.storage)


def specs(folder: Path, machines: TwoMachines) -> dict[str, dict[str, Any]]:
    rows = [
        {"id": f"r{n}", "question": f"What is number {n}?", "answers": [str(n * 7 % 10)], "source": "numbers.md"}
        for n in range(QUESTIONS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "docs").mkdir()
    (folder / "docs" / "numbers.md").write_text("# Numbers\n\nNumber 3 is 1, and number 4 is 8.\n")
    model = str(write_llama(folder / "llama", hidden=32))
    schedule = {"max_steps": STEPS, "epochs": 100, "learning_rate": 0.01, "batch_size": 8, "micro_batch_size": 2}
    tune = {
        "kind": "finetune",
        "model": model,
        "data": {"train": str(folder / "rows.jsonl"), "eval_fraction": 0.0},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "precision": "fp32",
        "schedule": {**schedule, "max_length": 256},
        "checkpoint": {"every_steps": EVERY},
    }
    return {
        "cluster": {
            "kind": "cluster",
            "address": machines.dashboard_url,
            "ray_token_file": str(machines.token_file),
            "ports": {"server": 0, "endpoint": 0},
        },
        "index": {
            "kind": "index",
            "name": "numbers",
            "sources": ["docs"],
            "embedder": {"model": str(write_embedder(folder / "embedder"))},
        },
        "cut": {**tune, "name": "cut", "workers": [1, 2]},
        "alone": {**tune, "name": "alone", "workers": 1},
        "compare": {
            "kind": "compare",
            "name": "compared",
            "model": model,
            "arms": list(ARMS),
            "eval": str(folder / "rows.jsonl"),
            "collection": "numbers",
            "max_tokens": 48,
            "bootstrap": 100,
            "engine": {"name": "transformers", "max_model_len": 512},
        },
    }


def actors(machine: Machine, name: str) -> int:
    """How many of Ray's actors of a class live on a machine."""
    return sum(f"ray::{name}" in " ".join(process.cmdline()) for process in machine())


def runs_on(tandem: Tandem, machine: Machine, file: str) -> str:
    """A job whose driver is on this machine."""
    for _ in range(TRIES):
        job_id = tandem("submit", file, "--again").strip()
        folder = tandem.storage / "jobs" / job_id
        until((folder / "environment-1.json").exists)
        if tandem.driver(job_id, machine()):
            return job_id
        tandem("stop", job_id)
        tandem("wait", job_id, status=1)
    raise AssertionError(f"in {TRIES} tries no driver came to be there")


def test_a_fine_tune_goes_on_without_the_machine_that_was_cut_off(tandem: Tandem, machines: TwoMachines) -> None:
    cut = Training(tandem, runs_on(tandem, machines.of_head, "cut.yaml"), EVERY)
    cut.done(10, starts=1)
    machines.cut()
    assert machines.of_node()  # it lives, and knows of nothing

    job = ends_once(tandem, cut.id)
    assert [attempt["reason"] for attempt in job["attempts"]] == ["done"]
    result = json.loads((cut.folder / "result.json").read_text())
    assert [start["workers"] for start in cut.starts()] == [2, 1]
    assert len(result["resumed_at"]) == 1
    assert result["resumed_at"][0] >= 10

    # Back on the line it hears that it was given up, and ends all that it ran.
    machines.mend()
    until(lambda: not machines.of_node())
    alone = Training(tandem, tandem("submit", "alone.yaml").strip(), EVERY)
    ends_once(tandem, alone.id)
    assert cut.losses() == pytest.approx(alone.losses(), rel=1e-4)
    assert len(cut.losses()) == STEPS
    machines.start_node()


def test_a_comparison_whose_driver_was_cut_off_is_finished_by_another(tandem: Tandem, machines: TwoMachines) -> None:
    # The store stays where the head is, whoever asks it.
    assert [actors(machine, "EdgeStore") for machine in (machines.of_head, machines.of_node)] == [1, 0]
    job_id = runs_on(tandem, machines.of_node, "compare.yaml")
    answers = tandem.storage / "jobs" / job_id / "answers"
    until((answers / "base.jsonl").exists)
    driver = tandem.driver(job_id, machines.of_node())
    assert driver is not None
    # It would have ended before Ray gives its machine up.
    driver.suspend()
    machines.cut()
    until(lambda: len(tandem.job(job_id)["attempts"]) == 2)
    driver.resume()

    job = ends_once(tandem, job_id)
    assert [attempt["reason"] for attempt in job["attempts"]] == ["node_lost", "done"]
    # Nobody could tell the first driver that it was replaced: it has seen it.
    assert tandem.driver(job_id, machines.of_node()) is None
    report = tandem.json("report", job_id)
    figures = {name: (arm["n"], arm["failures"]) for name, arm in report["arms"].items()}
    assert figures == dict.fromkeys(ARMS, (QUESTIONS, 0))
    result = json.loads((answers.parent / "result.json").read_text())
    items = pq.read_table(Path(result["report"]) / "items.parquet", columns=["arm", "id"]).to_pylist()
    assert len({(item["arm"], item["id"]) for item in items}) == len(items) == QUESTIONS * len(ARMS)
    machines.mend()
    until(lambda: not machines.of_node())
