"""The compare job: the same items to every arm, then figures, a verdict and a report. Safe to run again."""

from __future__ import annotations

import time
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.evaluation import classification
from tandem.evaluation.asking import questions
from tandem.evaluation.report.building import build_report, write_report
from tandem.evaluation.report.text import verdict_sentence
from tandem.evaluation.tools import Tools, real_tools
from tandem.specs.compare import CompareSpec


def run(spec: CompareSpec, context: JobContext, tools: Tools | None = None) -> dict[str, Any]:
    """Compare the spec's arms on its items.

    Answers are kept in the job's folder as they come; run again, only what is missing is asked.

    Args:
        spec: What to compare.
        context: The job.
        tools: Other than the cluster's own, in tests.

    Returns:
        ``{"report": folder, "verdict", "winner", "choose", "tied", "questions", "failures", "seconds", "mlflow_run"}``.

    Raises:
        DataError: Items that can't be used, or all of which an adapter was trained on.
        ModelError: A model or adapter that can't be used, or an adapter of another base model.
        NotFoundError: No such collection or artifact.
        TandemError: The engine is broken.
    """
    tools = tools or real_tools(context.cluster)
    started = time.perf_counter()
    # The file is this job's alone: an earlier attempt would be counted twice.
    context.quarantine_path.unlink(missing_ok=True)
    ask = questions.answer if spec.task == "generation" else classification.answer
    inputs, runs = tools.place(ask)(spec, context, tools)
    context.progress("report", 0, 1)
    report = build_report(context.id, inputs, runs)
    folder = context.artifact_dir()
    run_id = write_report(report, inputs, runs, folder, context, tools.track)
    context.progress("report", 1, 1)
    return {
        "report": str(folder),
        "verdict": verdict_sentence(report.model_dump(mode="json", by_alias=True)),
        "winner": report.verdict.winner,
        "choose": report.verdict.choose,
        "tied": list(report.verdict.tied),
        "questions": inputs.asked,
        "failures": sum(arm.failures for arm in report.arms.values()),
        "seconds": time.perf_counter() - started,
        "mlflow_run": run_id,
    }
