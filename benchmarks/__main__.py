"""`python -m benchmarks [NAME ...]`: run, print a table each, and write benchmarks/results/NAME.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import (
    adapters,
    checkpoints,
    comparison,
    endpoint,
    engine,
    ingestion,
    launcher,
    launcher_gpu,
    memory,
    overhead,
    queue,
    retrieval,
    submission,
    training,
    verdict,
)
from benchmarks.report import Result, show, write

BENCHMARKS = {
    "retrieval": retrieval.run,
    "ingestion": ingestion.run,
    "ingestion-memory": ingestion.run_memory,
    "engine": engine.run,
    "adapters": adapters.run,
    "overhead": overhead.run,
    "endpoint": endpoint.run,
    "memory": memory.run,
    "checkpoints": checkpoints.run,
    "training": training.run,
    "launcher": launcher.run,
    "comparison": comparison.run,
    "queue": queue.run,
    "submission": submission.run,
    "verdict": verdict.run,
}
ON_GPU = {"launcher-gpu": launcher_gpu.run}
LONG = {"retrieval-million": retrieval.run_million}


def main() -> None:
    known = BENCHMARKS | ON_GPU | LONG
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(known)}; default: all that need no GPU and no hour",
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    for name in arguments.names or BENCHMARKS:
        made = known[name]()
        for result in [made] if isinstance(made, Result) else made:
            show(result)
            print(f"written: {write(result, arguments.results)}\n")


# The engines' child processes import this module again.
if __name__ == "__main__":
    main()
