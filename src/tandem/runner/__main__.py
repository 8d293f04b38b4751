"""``python -m tandem.runner JOB_DIR``: run the job whose spec lies in that folder.

Writes ``result.json``, or ``error.json`` with what, where and remedy; then exits with 0 (done), 1 (failed)
or 2 (bad input), by which the server tells a fault of the user's from one of ours; or with 75, having done nothing:
the attempt has another driver, or isn't wanted any more (`tandem.runner.claim`).
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tandem.artifacts.job import ATTEMPT_VARIABLE, DISK_FULL, NOT_WANTED, JobContext
from tandem.config.cluster import Cluster
from tandem.config.files import write_whole
from tandem.errors import DiskFullError, TandemError
from tandem.orchestrator.states import NODE_LOST_TYPES, OUT_OF_MEMORY_TYPES
from tandem.runner.claim import claim, wanted, watch
from tandem.runner.environment import found
from tandem.specs import KINDS, CompareSpec, FinetuneSpec, IndexSpec, Spec

_INSIDE = ("controller_failure", "health_check_failure", "cause")  # attributes of Ray's wrappers


def run(spec: Spec, context: JobContext) -> dict[str, Any]:
    """Run one job to its end.

    Returns:
        What the job has to say of its result, as JSON types.
    """
    if isinstance(spec, IndexSpec):
        from tandem.retrieval.job import run as run_index

        return run_index(spec, context)
    if isinstance(spec, FinetuneSpec):
        from tandem.training.job import run as run_finetune

        return run_finetune(spec, context)
    if isinstance(spec, CompareSpec):
        from tandem.evaluation.job import run as run_compare

        return run_compare(spec, context)
    raise TypeError(f"{type(spec).__name__} isn't a job")


def _write(path: Path, data: dict[str, Any]) -> None:
    write_whole(path, json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def cause(error: BaseException) -> BaseException:
    """What a job died of, out of what Ray wrapped around it.

    Of several, the one that says what to mend; else the loss of a worker, since its neighbours' failures follow from
    it (so Ray Train's own failure policy has it); else the first.
    """
    return min(_unwrapped(error), key=_rank)


def _named(error: BaseException) -> BaseException:
    """The same, by the name that it has in our tree, where the system has told it."""
    if not (isinstance(error, OSError) and _is_full(error)):
        return error
    place = error.filename and str(error.filename)
    return DiskFullError(f"no room is left to write: {error}", where=place, remedy="make room under the storage folder")


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)


def _unwrapped(error: BaseException) -> Iterator[BaseException]:
    # Ray keeps the worker's exception in `cause`; Ray Train keeps the workers' by rank, and those of its controller.
    inner = [
        *(getattr(error, "worker_failures", None) or {}).values(),
        *(getattr(error, name, None) for name in _INSIDE),
    ]
    found = [each for each in inner if isinstance(each, BaseException)]
    if not found:
        yield error
        found = [error.__cause__] if error.__cause__ is not None else []
    for each in found:
        yield from _unwrapped(each)


def _rank(error: BaseException) -> int:
    name = type(error).__name__
    if name in NODE_LOST_TYPES:
        return 1
    return 0 if isinstance(error, TandemError) or name in OUT_OF_MEMORY_TYPES else 2


def main(arguments: list[str]) -> int:
    """Run the job of the folder named on the command line; returns the exit status."""
    if len(arguments) != 1:
        print("usage: python -m tandem.runner JOB_DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).absolute()
    # Not there where somebody runs a folder by hand.
    attempt = os.environ.pop(ATTEMPT_VARIABLE, None)
    if attempt is not None and not claim(folder, attempt):
        print(f"attempt {attempt} has a driver already, or isn't wanted any more: nothing is done", file=sys.stderr)
        return NOT_WANTED
    over = None if attempt is None else watch(folder, attempt)
    try:
        return _work(folder, attempt)
    finally:
        # Whoever called this in a process of its own goes on after it.
        if over is not None:
            over.set()


def _work(folder: Path, attempt: str | None) -> int:
    for name in ("result.json", "error.json"):
        (folder / name).unlink(missing_ok=True)
    try:
        data = json.loads((folder / "spec.json").read_text())
        spec = KINDS[data["kind"]].model_validate(data)
        cluster = Cluster.load()
        if attempt is not None:
            _write(folder / f"environment-{attempt}.json", found())
        context = JobContext(folder.name, data["name"], folder, cluster.storage, cluster)
        result = run(spec, context)
        if attempt is not None and not wanted(folder, attempt):
            return NOT_WANTED
        _write(folder / "result.json", result)
    except Exception as error:  # noqa: BLE001 - whatever ends a job is recorded as its error
        root = _named(cause(error))
        traceback.print_exception(error)
        known = root if isinstance(root, TandemError) else None
        says = {
            "type": type(root).__name__,
            "what": known.what if known else f"{type(root).__name__}: {root}".strip().splitlines()[0],
            "where": known.where if known else None,
            "remedy": known.remedy if known else "the job's log has the traceback",
        }
        try:
            _write(folder / "error.json", says)
        except OSError as unwritten:
            if not _is_full(unwritten):
                raise
            return DISK_FULL
        return known.exit_status if known and known.exit_status == 2 else 1
    context.clear_scratch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
