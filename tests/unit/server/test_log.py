from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tandem.server import log


def test_a_log_file_is_bounded_and_what_is_printed_beside_it_comes_to_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "server.log"
    monkeypatch.setattr(log, "MAX_BYTES", 1000)
    with path.open("ab") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        handler = log.log_handler(path)
        for number in range(100):
            handler.emit(logging.makeLogRecord({"msg": f"line {number} {'x' * 40}"}))
            os.write(stderr.fileno(), b"printed\n")
        handler.close()
    kept = (tmp_path / "server.log.1").read_text() + path.read_text()
    assert len(kept) < 2200
    assert kept.count("printed") > 20
    assert "line 99 " in path.read_text()
    assert path.read_text().endswith("printed\n")


def test_elsewhere_it_goes_to_stderr(tmp_path: Path) -> None:
    (tmp_path / "server.log").touch()
    assert type(log.log_handler(tmp_path / "server.log")) is logging.StreamHandler
    assert type(log.log_handler(tmp_path / "none.log")) is logging.StreamHandler
