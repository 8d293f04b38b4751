from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_ins.comparisons import job_context, report_of, simulate

from tandem.evaluation.job import run
from tandem.evaluation.report.tracking import log_report


def test_an_mlflow_that_is_away_costs_the_log_and_not_the_report(
    world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    cluster = replace(world.context.cluster, mlflow_uri="http://127.0.0.1:9")
    tools = replace(world.tools, track=log_report)
    result = run(world.spec(arms=["base"]), replace(world.context, cluster=cluster), tools)
    assert result["mlflow_run"] is None
    assert "MLflow at http://127.0.0.1:9 doesn't take the report" in capsys.readouterr().out
    manifest = json.loads((Path(result["report"]) / "manifest.json").read_text())
    assert manifest["type"] == "report"


class Client:
    """What is logged, as MLflow's client takes it."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.artifacts: list[str] = []
        self.ended = False

    def log_batch(self, run_id: str, metrics: Sequence[Any]) -> None:
        self.metrics |= {metric.key: metric.value for metric in metrics}

    def log_artifacts(self, run_id: str, folder: str, to: str) -> None:
        self.artifacts = sorted(path.name for path in Path(folder).iterdir())

    def set_terminated(self, run_id: str) -> None:
        self.ended = True


def test_figures_of_every_arm_the_verdict_and_all_files_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, tags = Client(), {}

    def open_run(context: Any, experiment: str, given: dict[str, str]) -> tuple[Client, str]:
        tags.update(given)
        return client, "run-1"

    monkeypatch.setattr("tandem.evaluation.report.tracking.open_run", open_run)
    simulated = simulate(60, arms=["base", "rag", "raft"])
    report, data = report_of(simulated)
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "report.html").write_text("")
    assert log_report(report, tmp_path, job_context(tmp_path / "storage")) == "run-1"
    for name, arm in data["arms"].items():
        for metric, value in arm["metrics"].items():
            assert client.metrics.get(f"{name}.{metric}") == value
        assert client.metrics[f"{name}.latency_ms.p95"] == arm["latency_ms"]["p95"]
        assert client.metrics[f"{name}.cost.per_1k"] == arm["cost"]["per_1k"]
        assert client.metrics[f"{name}.failures"] == arm["failures"]
    assert "base.recall_at_k" not in client.metrics, "nothing is retrieved for it"
    assert (tags["tandem.verdict"], tags["tandem.winner"], tags["tandem.choose"]) == ("winner", "raft", "raft")
    assert tags["tandem.split_sha256"] == data["dataset"]["split_sha256"]
    assert tags["mlflow.note.content"].startswith("raft wins")
    assert client.artifacts == ["report.html", "report.json", "storage"]
    assert client.ended
