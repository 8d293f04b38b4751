"""What do the figures, the verdict and the report take at 10,000 questions and six arms?

Answers are made up by rule from real texts; all else is the job's own path, in a process of its own: each question was
shown three passages of about 500 characters, the arms share them. Scoring, which a job does as well, is shown apart.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.report import Result, versions
from benchmarks.texts import ROOT, pieces

if TYPE_CHECKING:
    from tandem.data.rows import QaRow
    from tandem.evaluation.asking.arms import Arm, Passage
    from tandem.evaluation.figures.scoring import ScoredItem
    from tandem.evaluation.report.building import Inputs
    from tandem.specs.compare import CompareSpec

QUESTIONS = 10_000
PASSAGES = 3
WORDS, STEP = 78, 20  # of a passage, about 500 characters; and from one to the next
# How often each arm answers right.
SKILL = {"base": 0.05, "rag": 0.35, "tuned": 0.2, "tuned_rag": 0.5, "raft": 0.55, "oracle": 0.7}
RAMBLES = {"base", "rag", "oracle"}
PARTS = ("summarize_arms", "summarize_pairs", "summarize_slices")
FILES = ("markdown", "html", "write_parquet")


def run() -> Result:
    """In a fresh process, whose peak is that of this alone."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.verdict"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return Result(
        "verdict",
        "seconds and memory of statistics and report",
        {"questions": QUESTIONS, "arms": len(SKILL), "passages": PASSAGES, "bootstrap": _spec().bootstrap},
        versions("numpy", "scipy", "sacrebleu", "pyarrow", "matplotlib"),
        json.loads(done.stdout.splitlines()[-1]),
    )


def _spec() -> CompareSpec:
    from tandem.specs.compare import CompareSpec

    return CompareSpec.model_validate(
        {
            **{"kind": "compare", "name": "verdict", "model": "/model", "eval": "eval.jsonl", "collection": "docs"},
            **{"adapter": "/tuned", "raft_adapter": "/raft", "arms": list(SKILL), "slices": ["kind"]},
        }
    )


class _Watch:
    """What took how long, and the peak of memory by then."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.rows.append({"stage": stage, "seconds": took, "peak so far, MiB": peak})

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.of(f"  {function.__name__}"):
                return function(*args, **kwargs)

        return timed


def _measure() -> list[dict[str, Any]]:
    from benchmarks.clusters import NOWHERE, cluster_in
    from tandem.artifacts.job import JobContext
    from tandem.evaluation.asking.arms import arms_of
    from tandem.evaluation.figures import summary
    from tandem.evaluation.figures.scoring import score
    from tandem.evaluation.report import building as report

    spec, watch = _spec(), _Watch()
    arms = arms_of(spec)
    with watch.of("questions, passages, answers"):
        rows, retrieved = _questions()
        answers = {arm.name: [_answer(arm, row) for row in rows] for arm in arms}
    with watch.of("scoring"):
        runs: dict[str, list[list[ScoredItem]]] = {}
        for arm in arms:
            shown = [() if arm.context == "none" else found for found in retrieved]
            given = zip(rows, answers[arm.name], shown, strict=True)
            runs[arm.name] = [[score(arm, row, answer, passages, 0.01) for row, answer, passages in given]]
    inputs = _inputs(spec, arms, rows)
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as scratch, ExitStack() as stack:
        for module, names in ((summary, PARTS), (report, FILES)):
            for name in names:
                stack.enter_context(patch.object(module, name, watch.wrapped(getattr(module, name))))
        context = JobContext("id", "verdict", Path(scratch), Path(scratch), cluster_in(Path(scratch) / "s", NOWHERE))
        folder = Path(scratch) / "report"
        folder.mkdir()
        with watch.of("statistics and report"):
            built = report.build_report("id", inputs, runs)
            report.write_report(built, inputs, runs, folder, context, lambda *_: None)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    print({name: f"{size / 2**20:.1f} MiB" for name, size in sizes.items()}, file=sys.stderr)
    print(built.verdict.reason, file=sys.stderr)
    return watch.rows


def _questions() -> tuple[list[QaRow], list[tuple[Passage, ...]]]:
    from tandem.data.rows import QaRow
    from tandem.evaluation.asking.arms import Passage

    asks = ("How many", "Which", "When is", "Where does", "Why does", "Is")
    texts = pieces(QUESTIONS * PASSAGES, WORDS, step=STEP)
    rows, retrieved = [], []
    for number in range(QUESTIONS):
        shown = texts[number * PASSAGES : (number + 1) * PASSAGES]
        words = shown[0].split()
        rows.append(
            QaRow(
                id=f"q{number}",
                question=f"{asks[number % len(asks)]} {' '.join(words[20:28])}?",
                answers=(" ".join(words[10 : 11 + number % 4]),),
                source=f"doc{number}.txt" if number % 5 else "elsewhere.txt",
                extra={"kind": f"kind {number % 7}"},
            )
        )
        retrieved.append(
            tuple(
                Passage(f"{number}-{rank}", f"doc{number + rank}.txt", "A section", 1.0 / (1 + rank), text)
                for rank, text in enumerate(shown)
            )
        )
    return rows, retrieved


def _answer(arm: Arm, row: QaRow) -> Any:
    from tandem.evaluation.asking.items import Answer

    chance = random.Random(f"{arm.name} {row.id}")
    right = chance.random() < SKILL[arm.name]
    said = row.answers[0] if right else " ".join(row.question.split()[2:5])
    if arm.name in RAMBLES and chance.random() < 0.5:
        said = f"I think that the answer to this is {said}, as the passages say, or something that is very much like it"
    return Answer(row.id, "", said, None, PASSAGES, 400, len(said.split()), "stop", 100 * chance.random(), 0.1)


def _inputs(spec: CompareSpec, arms: tuple[Arm, ...], rows: list[QaRow]) -> Inputs:
    from tandem.evaluation.figures.costs import Machine
    from tandem.evaluation.figures.slices import question_slices
    from tandem.evaluation.report.building import Inputs

    found = {row.id: float(row.source != "elsewhere.txt") for row in rows}
    return Inputs(
        spec=spec,
        arms=arms,
        split_sha256="0" * 64,
        asked=len(rows),
        available=len(rows),
        quarantined=0,
        leaked=0,
        near_duplicates=None,
        slices=question_slices(spec.slices, rows, found, frozenset()),
        train={},
        train_costs={arm.name: 0.1 if arm.adapter else 0.0 for arm in arms},
        trained={},
        index={},
        machine=Machine(2.0, 0.0),
        engine="none",
        notes=(),
    )


if __name__ == "__main__":
    print(json.dumps(_measure()))
