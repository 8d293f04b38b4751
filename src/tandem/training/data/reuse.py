"""A job that is tried again goes on with the rows that it began with, whatever became of their files meanwhile.

A resumed run takes up its batches by step number: over other rows it would go on with another set, and not say so.
What `prepare` wrote is described in a file of the job's folder, written last; an attempt that finds it reads no rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.job import PREPARED, JobContext
from tandem.config.files import write_whole
from tandem.specs.finetune import FinetuneSpec

SCHEMA = 1


@dataclass(frozen=True)
class Prepared:
    """What the workers train on, and what is to be said of it.

    Args:
        train: Folder of the training examples.
        eval: Folder of the held-out ones, or None if there are none.
        examples: Number of training examples.
        data: For the manifest: counts and hashes.
        retrieval: For the manifest: the collection, its snapshot, and where gold was found; None without retrieval.
    """

    train: Path
    eval: Path | None
    examples: int
    data: dict[str, Any]
    retrieval: dict[str, Any] | None


def keep(spec: FinetuneSpec, context: JobContext, prepared: Prepared, more: Mapping[str, Any] | None = None) -> None:
    """Say that the examples are whole, for another attempt.

    Args:
        spec: The job.
        context: Its folder has the examples.
        prepared: What was prepared.
        more: What the task knows of it besides, as JSON types.
    """
    record = {
        "schema": SCHEMA,
        "of": _decides(spec),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "train": prepared.train.name,
        "eval": prepared.eval.name if prepared.eval is not None else None,
        "examples": prepared.examples,
        "data": prepared.data,
        "retrieval": prepared.retrieval,
        "more": more or {},
    }
    write_whole(context.dir / PREPARED, json.dumps(record, ensure_ascii=False) + "\n")


def kept(spec: FinetuneSpec, context: JobContext) -> tuple[Prepared, dict[str, Any]] | None:
    """What an earlier attempt prepared, and what `keep` was told besides; None, and nothing in the way, if none did."""
    path = context.dir / PREPARED
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if (
        record is None
        or (record["schema"], record["of"]) != (SCHEMA, _decides(spec))
        or not (context.dir / record["train"]).is_dir()
    ):
        path.unlink(missing_ok=True)  # before anything is written over what it describes
        context.quarantine_path.unlink(missing_ok=True)
        return None
    print(
        f"the rows are those that an earlier attempt prepared at {record['at']}: "
        "what changed since in their files or the collection isn't read",
        flush=True,
    )
    prepared = Prepared(
        train=context.dir / record["train"],
        eval=context.dir / record["eval"] if record["eval"] is not None else None,
        examples=record["examples"],
        data=record["data"],
        retrieval=record["retrieval"],
    )
    return prepared, record["more"]


def _decides(spec: FinetuneSpec) -> str:
    """SHA-256 (hex) of what of a spec decides what is prepared: a job's other attempts may have other workers."""
    whole = spec.canonical()
    part = {key: whole[key] for key in ("model", "task", "data", "retrieval", "prompt", "class_weights")}
    part |= {key: whole["schedule"][key] for key in ("max_length", "seed")}
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
