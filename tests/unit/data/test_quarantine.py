from __future__ import annotations

from pathlib import Path

from tandem.data.quarantine import Fault, count_quarantined, write_quarantine


def test_faults_are_counted_whatever_characters_their_rows_hold(tmp_path: Path) -> None:
    path = tmp_path / "job" / "quarantine.jsonl"
    assert count_quarantined(path) == 0
    write_quarantine(path, [Fault("a.jsonl", 1, "no label", {"text": "one\u2028two\x85three\nfour"})])
    write_quarantine(path, [Fault("a.jsonl", 2, "no text")])
    assert count_quarantined(path) == 2
