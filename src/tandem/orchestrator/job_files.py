"""What lies in ``STORAGE/jobs/ID``: the spec that goes in, and the logs, progress, result or error that come out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.job import ATTEMPT, MLFLOW_RUN, STEP_ASIDE, WORKERS_LOST, WORKERS_PHASE, driver_file
from tandem.config.files import write_whole

LOG_CHUNK_BYTES = 1_000_000


@dataclass(frozen=True)
class JobFiles:
    """One job's folder."""

    path: Path

    def prepare(self, spec: Mapping[str, Any], attempt: int) -> None:
        """Make the folder ready for an attempt: the spec in, what an earlier attempt left out of the way.

        Only a driver of this attempt may work from now on: one that a forgetful head left behind ends.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for name in ("error.json", "result.json", "progress.json", STEP_ASIDE, WORKERS_LOST):
            (self.path / name).unlink(missing_ok=True)
        write_whole(self.path / "spec.json", json.dumps(spec, indent=2, ensure_ascii=False) + "\n")
        write_whole(self.path / ATTEMPT, str(attempt))

    def retire(self) -> None:
        """No driver may work on the job any more, not even one whose start was asked for and is on its way."""
        (self.path / ATTEMPT).unlink(missing_ok=True)

    def check(self) -> None:
        """Whether what lies in the folder can be relied on.

        Raises:
            FileNotFoundError: The storage folder isn't there: what is missing says nothing.
        """
        self.path.parent.stat()

    def attempt(self) -> int:
        """The attempt that may work; 0 where none may."""
        try:
            return int((self.path / ATTEMPT).read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def begun(self, attempt: int) -> bool:
        """Whether a driver of this attempt has ever run."""
        return (self.path / driver_file(attempt)).exists()

    def result(self) -> dict[str, Any] | None:
        """What the runner returned, or None where it hasn't."""
        return _read(self.path / "result.json")

    def error(self) -> dict[str, Any] | None:
        """The runner's error: type, what, where, remedy; or None."""
        return _read(self.path / "error.json")

    def progress(self) -> dict[str, Any] | None:
        """How far the job says that it is, or None before it has said anything."""
        return _read(self.path / "progress.json")

    def phase(self) -> str | None:
        """What the job last said that it does, or that its workers are gone; None before it has said anything."""
        if (self.path / WORKERS_LOST).exists():
            return WORKERS_PHASE
        said = self.progress()
        return str(said["phase"]) if said and "phase" in said else None

    def environment(self, attempt: int) -> dict[str, Any] | None:
        """What an attempt's driver found itself in: versions, machine; None before it has begun."""
        return _read(self.path / f"environment-{attempt}.json")

    def mlflow_run(self) -> dict[str, Any] | None:
        """`run_id` and `experiment_id` of the job's run in MLflow; None where it has none."""
        return _read(self.path / MLFLOW_RUN)

    def ask_aside(self) -> None:
        """Ask the job to save what it has and end."""
        (self.path / STEP_ASIDE).touch()

    def log_bytes(self, attempt: int) -> int:
        """The length of an attempt's copied log."""
        path = self._log(attempt)
        return path.stat().st_size if path.exists() else 0

    def append_log(self, attempt: int, text: str) -> None:
        """Add what a driver has printed since the last copy.

        Args:
            attempt: The attempt's number, from 1.
            text: The whole log so far; Ray hands out no less.
        """
        data = text.encode(errors="replace")
        have = self.log_bytes(attempt)
        if len(data) > have:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._log(attempt).open("ab") as log:
                log.write(data[have:])

    def close_log(self, attempt: int, text: str) -> None:
        """Put an end behind what is copied of a log, if it hasn't that end already."""
        data = text.encode(errors="replace")
        self.path.mkdir(parents=True, exist_ok=True)
        with self._log(attempt).open("a+b") as log:
            size = log.tell()
            log.seek(max(0, size - len(data)))
            if log.read() == data:
                return
            log.seek(max(0, size - 1))
            ends_a_line = log.read() in (b"", b"\n")
            log.write(data if ends_a_line else b"\n" + data)

    def read_log(self, offset: int) -> tuple[bytes, int]:
        """The logs of all attempts, one behind the other, from a byte on.

        Returns:
            At most `LOG_CHUNK_BYTES` bytes, cut between characters, and the offset behind them.
        """
        chunks = b""
        position = 0
        # An attempt that couldn't be started has no log: its number is missing.
        for number in sorted(int(path.stem.removeprefix("attempt-")) for path in self.path.glob("attempt-*.log")):
            size = self.log_bytes(number)
            if offset < position + size:
                with self._log(number).open("rb") as log:
                    log.seek(max(0, offset - position))
                    chunks += log.read(LOG_CHUNK_BYTES - len(chunks))
            position += size
            if len(chunks) >= LOG_CHUNK_BYTES:
                break
        whole = chunks.decode(errors="ignore").encode() if chunks else b""
        # A character cut at the end comes with the next call; bytes that are no UTF-8 at all must not stop the reader.
        taken = whole if len(chunks) - len(whole) <= 3 and whole else chunks
        return taken, min(offset, position) + len(taken)

    def _log(self, attempt: int) -> Path:
        return self.path / f"attempt-{attempt}.log"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        # Not there, or a writer that doesn't write atomically is at it: the next look will tell.
        return None
    return data if isinstance(data, dict) else None
