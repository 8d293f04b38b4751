"""The Tandem server whose jobs do nothing but wait: `python -m benchmarks.noop_server STORAGE/server.json`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tandem.config.cluster import Cluster
from tandem.orchestrator import executor
from tandem.server.__main__ import main

SECONDS = "NOOP_SECONDS"


def noop(folder: Path) -> str:
    """An entrypoint that waits for `$NOOP_SECONDS`, and succeeds."""
    result = shlex.quote(str(folder / "result.json"))
    return f"sleep ${{{SECONDS}:-0}}; echo '{{}}' > {result}"


def _entrypoint(_: Cluster, job_dir: Path, *, own_python: bool = False) -> str:
    assert not own_python
    return noop(job_dir)


if __name__ == "__main__":
    executor.entrypoint = _entrypoint
    sys.exit(main(sys.argv[1:]))
