from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.evaluation.job import run
from tandem.evaluation.tracking import log_report


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
