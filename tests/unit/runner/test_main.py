"""However a job ends, its folder says how, and the exit status says whose fault it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.config.cluster import Cluster
from tandem.errors import DataError, StoreError
from tandem.runner import __main__ as runner


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    storage = tmp_path / "storage"
    folder = storage / "jobs" / "docs-1"
    folder.mkdir(parents=True)
    urls = dict.fromkeys(
        ("ray_address", "dashboard_url", "server_url", "endpoint_url", "database_url", "mlflow_uri"), ""
    )
    Cluster(storage=storage, api_key_file=storage / "api-key", **urls).save()
    monkeypatch.setenv("TANDEM_STORAGE", str(storage))
    (folder / "spec.json").write_text(json.dumps({"kind": "index", "name": "docs", "sources": [{"uri": "x"}]}))
    return folder


def ends_with(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    def run(spec: object, context: object) -> dict[str, Any]:
        if isinstance(outcome, BaseException):
            raise outcome
        return dict(outcome)

    monkeypatch.setattr(runner, "run", run)


def test_result_is_written(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job / "error.json").write_text("{}")  # of an earlier attempt
    ends_with(monkeypatch, {"documents": 3})
    assert runner.main([str(job)]) == 0
    assert json.loads((job / "result.json").read_text()) == {"documents": 3}
    assert not (job / "error.json").exists()


class Wrapped(Exception):
    """As Ray wraps a worker's exception."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("wrapped")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (DataError("bad", where="a.jsonl", remedy="mend it"), 2, "DataError"),
        (Wrapped(DataError("bad", where="a.jsonl", remedy="mend it")), 2, "DataError"),
        (StoreError("lost"), 1, "StoreError"),
        (ValueError("odd"), 1, "ValueError"),
    ],
)
def test_error_is_written(
    job: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, type_: str
) -> None:
    ends_with(monkeypatch, error)
    assert runner.main([str(job)]) == status
    written = json.loads((job / "error.json").read_text())
    assert written["type"] == type_
    assert not (job / "result.json").exists()
    if status == 2:
        assert (written["what"], written["where"], written["remedy"]) == ("bad", "a.jsonl", "mend it")


def test_broken_spec_is_an_error_too(job: Path) -> None:
    (job / "spec.json").write_text("{")
    assert runner.main([str(job)]) == 1
    assert "JSONDecodeError" in (job / "error.json").read_text()
