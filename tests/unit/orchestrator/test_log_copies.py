"""Copies of logs that Ray can't hand out whole: bounded, and never without a word on what is missing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import httpx
import pytest
from stand_ins.line import job
from stand_ins.world import make_cluster

from tandem.orchestrator import ray_jobs
from tandem.orchestrator.job_files import JobFiles
from tandem.orchestrator.log_copies import LEFT_OUT, LOST, LogCopies
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.states import State


class Dashboard:
    """Ray's, which has one log; None: as where its node has gone."""

    def __init__(self, printed: bytes | None = b"") -> None:
        self.printed = printed
        self.calls = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        if self.printed is None:
            return httpx.Response(500)
        if request.url.path == "/api/v0/logs/file":
            if not self.printed:
                return httpx.Response(500)
            lines = self.printed.splitlines(keepends=True)
            return httpx.Response(200, content=b"".join(lines[-int(request.url.params["lines"]) :]))
        try:
            return httpx.Response(200, text=json.dumps({"logs": self.printed.decode()}))
        except UnicodeDecodeError:
            return httpx.Response(500, text="no UTF-8")


@pytest.fixture
def dashboard() -> Dashboard:
    return Dashboard()


@pytest.fixture
def copies(tmp_path: Path, dashboard: Dashboard) -> LogCopies:
    (tmp_path / "cluster").mkdir()
    http = HttpRayJobs(make_cluster(tmp_path / "cluster"), transport=httpx.MockTransport(dashboard))
    seconds = itertools.count(1000, 10)
    return LogCopies(http, lambda: float(next(seconds)))


def copied(files: JobFiles) -> str:
    return (files.path / "attempt-1.log").read_text()


@pytest.mark.parametrize("word", ["plain ", 'a\n\\"\t', "é€😀"])
def test_a_log_above_the_limit_is_kept_from_its_beginning_and_with_its_end(
    tmp_path: Path, dashboard: Dashboard, copies: LogCopies, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(ray_jobs, "LAST_LINES", 2)
    files, running = JobFiles(tmp_path / "job"), job(state=State.RUNNING)
    dashboard.printed = f"{word * 40}\nTraceback\nKeyError: 'x'\n".encode()
    whole = dashboard.printed.decode()
    for limit in range(100, 130):
        monkeypatch.setattr(ray_jobs, "MAX_LOG_BYTES", limit)
        copies.copy(running, files, final=False)
        beginning = copied(files).removesuffix("?")
        assert whole.startswith(beginning)
        assert len(beginning) > 5
        # Twice: a server that died in between does it again.
        for _ in range(2):
            copies.copy(running, files, final=True)
        assert copied(files).endswith(f"\n{LEFT_OUT}\nTraceback\nKeyError: 'x'\n")
        assert copied(files).count(LEFT_OUT) == 1
        (files.path / "attempt-1.log").unlink()


def test_a_log_above_the_limit_is_fetched_once_and_again_when_it_ends(
    tmp_path: Path, dashboard: Dashboard, copies: LogCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "MAX_LOG_BYTES", 20)
    files, running = JobFiles(tmp_path / "job"), job(state=State.RUNNING)
    dashboard.printed = b"a line\n" * 10
    for _ in range(3):
        copies.copy(running, files, final=False)
    assert dashboard.calls == 1
    copies.copy(running, files, final=True)
    assert copied(files).endswith("a line\n")


def test_a_log_that_is_no_utf_8_keeps_its_end(tmp_path: Path, dashboard: Dashboard, copies: LogCopies) -> None:
    files, running = JobFiles(tmp_path / "job"), job(state=State.RUNNING)
    dashboard.printed = b"one\n"
    copies.copy(running, files, final=True)
    assert copied(files) == "one\n"
    dashboard.printed += b"\xff\ntwo\n"
    copies.copy(running, files, final=True)
    assert copied(files) == f"one\n{LEFT_OUT}\none\n�\ntwo\n"


@pytest.mark.parametrize("gone", [None, b""])
def test_a_log_whose_rest_is_lost_says_so(
    tmp_path: Path, dashboard: Dashboard, copies: LogCopies, gone: bytes | None
) -> None:
    files, running = JobFiles(tmp_path / "job"), job(state=State.RUNNING)
    dashboard.printed = gone
    # It has printed nothing that anybody knows of.
    copies.copy(running, files, final=True)
    assert files.read_log(0)[0] == b""
    dashboard.printed = b"one"
    copies.copy(running, files, final=True)
    dashboard.printed = gone
    for _ in range(2):
        copies.copy(running, files, final=True)
    assert copied(files) == f"one\n{LOST}\n"
