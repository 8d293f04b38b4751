"""From the spec's files to tokens on the shared storage: read, retrieve, tokenize, check, write; batch by batch."""

from __future__ import annotations

from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tandem.artifacts.job import EVAL_EXAMPLES, TRAIN_EXAMPLES, JobContext
from tandem.artifacts.uris import resolve
from tandem.config.cluster import Cluster
from tandem.data.quarantine import check_share
from tandem.data.sources import list_data_files
from tandem.data.splits import digests_sha256
from tandem.data.train_rows import SELECTION_ROWS, TRAIN_ROWS, copy_rows
from tandem.errors import DataError
from tandem.retrieval.snapshot import find_snapshot
from tandem.specs.finetune import FinetuneSpec, RetrievalAugmentedSpec
from tandem.training.data.dataset import Examples, read_ids
from tandem.training.data.encoding import Encode, Retrieve, search_of
from tandem.training.data.examples import preflight
from tandem.training.data.held_out import HeldOut, divide, survey
from tandem.training.data.reuse import Prepared, keep, kept
from tandem.training.data.staging import Staged
from tandem.training.data.streaming import CLUSTER_BYTES, stream

if TYPE_CHECKING:
    from tandem.retrieval.retriever import Retriever


def prepare(spec: FinetuneSpec, context: JobContext, tokenizer: Any) -> Prepared:
    """Read the rows, give them their contexts, turn them into tokens with a loss mask, and write those.

    What an earlier attempt of the job wrote is used again (see `tandem.training.data.reuse`).

    Args:
        spec: The job.
        context: Where to write; its cluster holds the collection.
        tokenizer: The model's, a fast one.

    Raises:
        DataError: A file is missing or empty, too many rows can't be used, or nothing would be learnt.
        ModelError: The tokenizer can't be used.
        NotFoundError: The collection isn't there.
    """
    where = spec.data.train
    earlier = kept(spec, context)
    if earlier is not None:
        prepared, _ = earlier
        _show(Examples.load(prepared.train), prepared.train, tokenizer, where)
        return prepared
    apart = None if spec.retrieval is None else _survey(spec, context)
    rows = _stage(spec, context, tokenizer, where, context.dir / "train-staging", apart)
    other = None
    if spec.data.eval is not None:
        other = _stage(spec, context, tokenizer, spec.data.eval, context.dir / "eval-staging", apart)
    both = [rows] if other is None else [rows, other]
    retrieval = None if apart is None else _describe_retrieval(spec, context, both, apart)
    _check_usable(spec, context, both)
    division = divide(rows, other, eval_fraction=spec.data.eval_fraction)
    if not rows.trainable(division.train):
        said, remedy = (
            ("was held out", "lower data.eval_fraction")
            if other is None
            else ("is asked by data.eval too", "give data.eval other rows")
        )
        raise DataError(f"every row that can be used {said}", where=where, remedy=remedy)
    train = rows.write(division.train, context.dir / TRAIN_EXAMPLES)
    held, mask = (rows if other is None else other), division.held
    evaluation = held.write(mask, context.dir / EVAL_EXAMPLES) if held.trainable(mask) else None
    if spec.data.eval is not None and evaluation is None:
        raise DataError(
            "none of its rows can be used", where=spec.data.eval, remedy="mend them, or leave data.eval out"
        )
    copy_rows(rows.rows_path, context.dir / TRAIN_ROWS, division.train)
    if evaluation is not None and spec.early_stopping.enabled:
        copy_rows(held.rows_path, context.dir / SELECTION_ROWS, mask)
    for staged in both:
        staged.clear()
    _show(train, context.dir / TRAIN_EXAMPLES, tokenizer, where)
    if division.leaked:
        print(f"{division.leaked} rows were left out of training: what they ask or say is held out too", flush=True)
    trained = np.flatnonzero(division.train)
    data = {
        "train_rows": len(trained),
        "eval_rows": int(mask.sum()),
        "leaked": division.leaked,
        "quarantined": sum(staged.unread.count + staged.unusable.count for staged in both),
        "train_tokens": len(train.input_ids),
        "train_loss_tokens": int(train.loss_mask.sum()),
        "eval_tokens": len(evaluation.input_ids) if evaluation is not None else 0,
        "train_sha256": digests_sha256(rows.digests[place] for place in trained),
    }
    prepared = Prepared(
        train=context.dir / TRAIN_EXAMPLES,
        eval=context.dir / EVAL_EXAMPLES if evaluation is not None else None,
        examples=len(train),
        data=data,
        retrieval=retrieval,
    )
    keep(spec, context, prepared)
    return prepared


def _show(train: Examples, folder: Path, tokenizer: Any, where: str) -> None:
    print(preflight(train, read_ids(folder), tokenizer, where=where), flush=True)


def _survey(spec: FinetuneSpec, context: JobContext) -> HeldOut:
    assert spec.retrieval is not None
    how = search_of(spec.retrieval)
    opened = cache(partial(_open_retriever, context.cluster, spec.retrieval))  # once there is a question
    return survey(
        list_data_files(_located(spec.data.train, context)),
        None if spec.data.eval is None else list_data_files(_located(spec.data.eval, context)),
        eval_fraction=spec.data.eval_fraction,
        search=lambda questions: opened().search(questions, how),
        told=lambda done: context.progress("held out", done),
    )


def _stage(
    spec: FinetuneSpec, context: JobContext, tokenizer: Any, uri: str, folder: Path, apart: HeldOut | None
) -> Staged:
    make_retrieve = None
    if spec.retrieval is not None and apart is not None:
        opened = partial(_open_retriever, context.cluster, spec.retrieval)
        make_retrieve = partial(Retrieve, opened, spec.retrieval, spec.schedule.seed, apart.bars)
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


def _open_retriever(cluster: Cluster, spec: RetrievalAugmentedSpec) -> Retriever:
    from tandem.retrieval.tenants import open_for_job

    return open_for_job(cluster, spec.collection, spec.tenant)


def _describe_retrieval(spec: FinetuneSpec, context: JobContext, sets: list[Staged], apart: HeldOut) -> dict[str, Any]:
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
        "excluded_passages": sum(staged.excluded for staged in sets),
        "eval_rows_sharing_document": apart.sharing,
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
