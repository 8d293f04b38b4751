"""From the spec's files to tokens on the shared storage: read, retrieve, tokenize, check, write; batch by batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tandem.artifacts.job import JobContext
from tandem.artifacts.uris import resolve
from tandem.config.cluster import Cluster
from tandem.data.quarantine import check_share
from tandem.data.sources import list_data_files
from tandem.data.splits import digests_sha256, held_out
from tandem.errors import DataError
from tandem.retrieval.snapshot import find_snapshot
from tandem.specs.finetune import FinetuneSpec
from tandem.training.data.dataset import read_ids
from tandem.training.data.encoding import Encode, Retrieve
from tandem.training.data.examples import preflight
from tandem.training.data.staging import Staged
from tandem.training.data.streaming import CLUSTER_BYTES, stream

if TYPE_CHECKING:
    from tandem.retrieval.retriever import Retriever

TRAIN, EVAL = "train-examples", "eval-examples"  # folders of the job


@dataclass(frozen=True)
class Prepared:
    """What the workers train on, and what is to be said of it.

    Args:
        train: Folder of the training examples.
        eval: Folder of the held-out ones, or None if there are none.
        examples: Number of training examples.
        data: For the manifest: counts, hashes, and what was trained on, so that a comparison can leave it out.
        retrieval: For the manifest: the collection, its snapshot, and where gold was found; None without retrieval.
    """

    train: Path
    eval: Path | None
    examples: int
    data: dict[str, Any]
    retrieval: dict[str, Any] | None


def prepare(spec: FinetuneSpec, context: JobContext, tokenizer: Any) -> Prepared:
    """Read the rows, give them their contexts, turn them into tokens with a loss mask, and write those.

    Args:
        spec: The job.
        context: Where to write; its cluster holds the collection.
        tokenizer: The model's, a fast one.

    Raises:
        DataError: A file is missing or empty, too many rows can't be used, or nothing would be learnt.
        ModelError: The tokenizer can't be used.
        NotFoundError: The collection isn't there.
    """
    context.quarantine_path.unlink(missing_ok=True)
    where = spec.data.train
    rows = _stage(spec, context, tokenizer, where, context.dir / "train-staging")
    other = None
    if spec.data.eval is not None:
        other = _stage(spec, context, tokenizer, spec.data.eval, context.dir / "eval-staging")
    both = [rows] if other is None else [rows, other]
    retrieval = None if spec.retrieval is None else _describe_retrieval(spec, context, both)
    _check_usable(spec, context, both)
    evaluated = np.zeros(len(rows.ids), dtype=np.bool_)
    if other is None:
        chosen = held_out(rows.ranks, spec.data.eval_fraction)
        evaluated = np.fromiter((rank in chosen for rank in rows.ranks), dtype=np.bool_, count=len(rows.ids))
    if not rows.trainable(~evaluated):
        raise DataError("every row that can be used was held out", where=where, remedy="lower data.eval_fraction")
    train = rows.write(~evaluated, context.dir / TRAIN)
    held, mask = (rows, evaluated) if other is None else (other, np.ones(len(other.ids), dtype=np.bool_))
    evaluation = held.write(mask, context.dir / EVAL) if held.trainable(mask) else None
    if spec.data.eval is not None and evaluation is None:
        raise DataError(
            "none of its rows can be used", where=spec.data.eval, remedy="mend them, or leave data.eval out"
        )
    for staged in both:
        staged.clear()
    print(preflight(train, read_ids(context.dir / TRAIN), tokenizer, where=where), flush=True)
    trained = np.flatnonzero(~evaluated)
    questions = {question for place in trained if (question := rows.questions[place]) is not None}
    data = {
        "train_rows": len(trained),
        "eval_rows": int(mask.sum()),
        "quarantined": sum(staged.unread.count + staged.unusable.count for staged in both),
        "train_tokens": len(train.input_ids),
        "train_loss_tokens": int(train.loss_mask.sum()),
        "eval_tokens": len(evaluation.input_ids) if evaluation is not None else 0,
        "train_sha256": digests_sha256(rows.digests[place] for place in trained),
        "train_ids": [rows.ids[place] for place in trained],
        "train_questions": sorted(questions),
    }
    return Prepared(
        train=context.dir / TRAIN,
        eval=context.dir / EVAL if evaluation is not None else None,
        examples=len(train),
        data=data,
        retrieval=retrieval,
    )


def _stage(spec: FinetuneSpec, context: JobContext, tokenizer: Any, uri: str, folder: Path) -> Staged:
    make_retrieve = None
    if spec.retrieval is not None:
        opened = partial(_open_retriever, context.cluster, spec.retrieval.collection)
        make_retrieve = partial(Retrieve, opened, spec.retrieval, spec.schedule.seed)
    encode = Encode(tokenizer, spec.prompt, spec.schedule.max_length)
    batches = stream(list_data_files(_located(uri, context)), encode, make_retrieve, cluster_bytes=CLUSTER_BYTES)
    staged = Staged(folder, context.quarantine_path)
    context.progress("tokenize", 0)
    for done in staged.fill(batches):
        context.progress("tokenize", done)
    staged.check(spec.data.max_quarantined, where=uri)
    return staged


def _located(uri: str, context: JobContext) -> str:
    """Rows inside a package, a hub's snapshot or an artifact are on this machine once that is resolved."""
    scheme, _, rest = uri.partition(":")
    fetched = scheme in ("hf", "pypi", "artifact") and not rest.startswith("//")
    return str(resolve(uri, storage=context.storage)) if fetched else uri


def _open_retriever(cluster: Cluster, collection: str) -> Retriever:
    from tandem.retrieval.retriever import open_retriever

    return open_retriever(cluster, collection)


def _describe_retrieval(spec: FinetuneSpec, context: JobContext, sets: list[Staged]) -> dict[str, Any]:
    assert spec.retrieval is not None
    gold = Counter(gold for staged in sets for gold in staged.golds if gold is not None)
    if not gold:
        raise DataError(
            "`retrieval` is set, and no row has a question to retrieve for",
            where=spec.data.train,
            remedy="give rows with `question` and `answers`, or leave `retrieval` out",
        )
    counts = {
        "with_gold": gold["with"],
        "gold_withheld": gold["without"],
        "gold_not_found": gold["not_found"],
    }
    context.progress("retrieve", gold.total(), gold.total(), **counts)
    snapshot = find_snapshot(context.storage, spec.retrieval.collection)
    return {
        **spec.retrieval.model_dump(mode="json"),
        "snapshot": snapshot.id if snapshot is not None else None,
        **counts,
    }


def _check_usable(spec: FinetuneSpec, context: JobContext, sets: list[Staged]) -> None:
    first = next((staged.unusable.first for staged in sets if staged.unusable.first is not None), None)
    check_share(
        sum(staged.unusable.count for staged in sets),
        first,
        sum(len(staged.ids) for staged in sets),
        spec.data.max_quarantined,
        what="rows",
        where=spec.data.train,
        path=context.quarantine_path,
    )
