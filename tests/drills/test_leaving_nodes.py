"""A finetune job whose machines leave and join: a Ray cluster of several nodes, killed, added and drained for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand_ins.leaving_nodes import DEADLINE_S, EVERY, NOTICE_S
from tiny_models import write_llama

SCRIPT = Path(__file__).parents[1] / "stand_ins" / "leaving_nodes.py"
STEPS = 24


def spec(model: Path, rows: Path) -> dict[str, Any]:
    return {
        "kind": "finetune",
        "name": "leaving",
        "model": str(model),
        "data": {"train": str(rows), "eval_fraction": 0.0},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "precision": "fp32",
        "workers": [1, 2],
        "schedule": {"max_steps": STEPS, "epochs": 100, "learning_rate": 0.01, "batch_size": 8, "micro_batch_size": 2},
        "checkpoint": {"every_steps": EVERY},
    }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    data = tmp_path_factory.mktemp("data")
    rows = [{"id": f"r{n}", "question": f"What is number {n}?", "answers": [str(n * 7 % 10)]} for n in range(40)]
    (data / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Of the session's own cluster the job's Ray must know nothing.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "OTEL_", "TANDEM_"))}
    # A socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdm-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "spec.json").write_text(json.dumps(spec(write_llama(data / "llama"), data / "rows.jsonl")))
        log = folder / "log"
        with log.open("w") as out:
            script = subprocess.Popen(
                [sys.executable, str(SCRIPT), name],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = script.wait(DEADLINE_S + 60)
            finally:
                if script.poll() is None:
                    os.killpg(script.pid, signal.SIGKILL)
        assert status == 0, log.read_text()[-8000:]
        yield json.loads((folder / "story.json").read_text())


def test_the_job_goes_on_with_the_nodes_that_are_there(story: dict[str, Any]) -> None:
    seen = [(start["workers_before"], start["workers"], start["started_at_step"]) for start in story["starts"]]
    # Killed after step 8, joined after step 13, taken back after step 17: each from the last checkpoint.
    assert seen == [(None, 2, 0), (2, 1, 5), (1, 2, 10), (2, 1, 18)]
    assert story["result"]["resumed_at"] == [5, 10, 18]
    assert (story["result"]["steps"], story["result"]["workers"]) == (STEPS, 1)


def test_told_that_a_machine_goes_away_it_has_saved_before_it_is_gone(story: dict[str, Any]) -> None:
    saved = story["starts"][-1]["started_at_step"]
    assert saved == 18  # the step after the notice, and no multiple of EVERY
    assert story["saved_ms_before"] > NOTICE_S * 1000 / 2


def test_the_curve_is_that_of_a_run_that_nobody_disturbed(story: dict[str, Any]) -> None:
    assert len(story["alone"]) == STEPS
    assert story["losses"] == pytest.approx(story["alone"], rel=1e-3)
    assert story["alone"][-1] < story["alone"][0] - 0.3
