from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins.world import make_cluster

from tandem.artifacts.job import JobContext
from tandem.training.curve import draw_curve
from tandem.training.tracking import Tracker

RECORDS = [
    {"step": step, "loss": 1.0 / step, "learning_rate": 0.1, "grad_norm": 1.0, "tokens_per_s": 5.0, "step_s": 0.1}
    for step in range(1, 5)
]


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    return JobContext("t-1", "t", tmp_path, tmp_path, make_cluster(tmp_path))


def test_an_mlflow_that_cannot_be_reached_is_said_once_and_fails_nothing(
    context: JobContext, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = replace(context, cluster=replace(context.cluster, mlflow_uri="http://127.0.0.1:9"))
    tracker = Tracker(away, {"a": 1})
    tracker.close(RECORDS, status="FINISHED")
    tracker.close(RECORDS, status="FINISHED")
    assert capsys.readouterr().out.count("take the metrics") == 1
    assert tracker.run_id is None


def test_a_database_of_another_version_fails_nothing(context: JobContext, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(context.storage / "future.db") as database:
        database.execute("create table alembic_version (version_num varchar(32) not null)")
        database.execute("insert into alembic_version values ('of the future')")
    uri = f"sqlite:///{context.storage / 'future.db'}"
    tracker = Tracker(replace(context, cluster=replace(context.cluster, mlflow_uri=uri)), {})
    tracker.close(RECORDS, status="FINISHED")
    assert "doesn't take the metrics" in capsys.readouterr().out


def test_nothing_is_logged_before_it_is_time(context: JobContext) -> None:
    tracker = Tracker(context, {})
    tracker.follow(RECORDS)
    assert not (context.storage / "mlflow.db").exists()


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    draw_curve([*RECORDS[:-1], {**RECORDS[-1], "eval_loss": 0.5}], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
