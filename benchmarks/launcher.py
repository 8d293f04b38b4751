"""What does Ray cost the training loop: the finetune job against the same loop under plain torchrun.

Ray's head, its dashboard and Ray Train's actors take some tenth of a core, wherever they run. Where a core is left to
them (a GPU node has many, a head node is another machine) only what happens in the workers counts; where two workers
take both cores of the machine that is the head as well, their share is missing, and twice, since workers wait for each
other. Both are measured, and torchrun beside an idle Ray head too, which is not the job's doing.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import Result, versions
from benchmarks.training_runs import WARM_UP, demo_setting, ray_head, run_side, write_setting
from benchmarks.training_sides import Setting

ROUNDS = 2
STEPS = 7
ROWS_PER_WORKER = 2
CONTENDERS = {  # name: side, workers, beside an idle Ray head
    "torchrun, one worker, a core left": ("torchrun", 1, False),
    "job, one worker, a core left": ("job", 1, False),
    "torchrun, a worker per core": ("torchrun", 2, False),
    "torchrun, a worker per core, beside a Ray head": ("torchrun", 2, True),
    "job, a worker per core": ("job", 2, False),
}


def run() -> list[Result]:
    """Run all, in rounds that go forth and back."""
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        setting = replace(demo_setting(root, steps=STEPS), batch_size=ROWS_PER_WORKER, workers=1)
        write_setting(root / "examples", replace(setting, steps=1))
        run_side("job", root / "examples")  # also what warms the disk
        for number in range(ROUNDS):
            names = list(CONTENDERS) if number % 2 == 0 else list(CONTENDERS)[::-1]
            rounds.append({name: _measure(name, root / f"{number}-{at}", setting) for at, name in enumerate(names)})
    packages = versions("torch", "transformers", "deepspeed", "ray")
    said = {"model": Path(setting.model).name, "steps": f"{ROUNDS} × {STEPS - WARM_UP}", "rows/worker": ROWS_PER_WORKER}
    question = "useful tokens per second under Ray Train and under torchrun"
    return [
        Result("launcher", question, said, packages, _rows(rounds)),
        Result(
            "startup",
            "seconds from the start of the job's process to the end of its first step",
            said,
            packages,
            _startup([one["job, a worker per core"]["startup"] for one in rounds]),
        ),
    ]


def _measure(name: str, folder: Path, setting: Setting) -> dict[str, Any]:
    side, workers, beside_head = CONTENDERS[name]
    write_setting(folder, replace(setting, workers=workers, batch_size=workers * ROWS_PER_WORKER))
    (folder / "prepared").symlink_to(folder.parent / "examples" / "storage" / "job")
    if beside_head:
        with ray_head():
            measured = run_side(side, folder)
    else:
        measured = run_side(side, folder)
    print(f"{folder.name}, {name}: {_rate(measured):.0f} tokens/s", flush=True)
    return measured


def _rate(measured: dict[str, Any]) -> float:
    """Tokens of the steps that count over their seconds: the same steps for all of as many workers."""
    counted = slice(WARM_UP, STEPS)
    return float(sum(measured["tokens"][counted]) / sum(measured["seconds"][counted]))


def _rows(rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for name, (_, workers, _) in CONTENDERS.items():
        peer = next(other for other, (side, count, _) in CONTENDERS.items() if (side, count) == ("torchrun", workers))
        rates = [_rate(one[name]) for one in rounds]
        ratios = [_rate(one[name]) / _rate(one[peer]) for one in rounds]
        rows.append(
            {
                "contender": name,
                "tokens/s": statistics.median(rates),
                "÷ torchrun": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
        )
    return rows


def _startup(phases: list[dict[str, float]]) -> list[dict[str, Any]]:
    rows = [{"phase": phase, "s": statistics.median(one[phase] for one in phases)} for phase in phases[0]]
    return [*rows, {"phase": "in all", "s": statistics.median(sum(one.values()) for one in phases)}]
