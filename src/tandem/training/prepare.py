"""From the spec's files to tokens on the shared storage: read, retrieve, tokenize, check, write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.job import JobContext
from tandem.data.quarantine import Fault, check_quarantined, write_quarantine
from tandem.data.rows import TrainRow, read_training
from tandem.data.splits import question_key, split, split_sha256
from tandem.errors import DataError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.augment import Augmented, augment
from tandem.training.dataset import IDS, Examples
from tandem.training.examples import Example, build_examples, preflight

if TYPE_CHECKING:
    from tandem.retrieval.retriever import Passage

SEARCH_BATCH = 64  # questions embedded and searched at once
SEARCH_DEPTH = 4  # retrieved for each passage of a prompt: the gold one may rank low, and withholding it needs others


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
    train_rows, eval_rows = _rows(spec, context)
    rows = [*train_rows, *eval_rows]
    contexts: Sequence[Sequence[Passage]] = [()] * len(rows)
    retrieval = None
    if spec.retrieval is not None:
        augmented, snapshot = _with_passages(spec, context, rows)
        contexts = augmented.contexts
        retrieval = {
            **spec.retrieval.model_dump(mode="json"),
            "snapshot": snapshot,
            "with_gold": augmented.with_gold,
            "gold_withheld": augmented.without_gold,
            "gold_not_found": augmented.not_found,
        }
    context.progress("tokenize", 0, len(rows))
    where = spec.data.train
    options: dict[str, Any] = {"prompt": spec.prompt, "max_length": spec.schedule.max_length, "where": where}
    count = len(train_rows)
    train, faults = build_examples(train_rows, contexts[:count], tokenizer, **options)
    held_out, more = build_examples(eval_rows, contexts[count:], tokenizer, **options)
    faults += more
    _check(spec, context, rows=len(rows), faults=faults)
    if not train:
        raise DataError("every row that can be used was held out", where=where, remedy="lower data.eval_fraction")
    print(preflight(train, tokenizer, where=where), flush=True)
    context.progress("tokenize", len(rows), len(rows))
    return Prepared(
        train=_write(train, context.dir / "train-examples"),
        eval=_write(held_out, context.dir / "eval-examples") if held_out else None,
        examples=len(train),
        data=_describe(train_rows, eval_rows, train, held_out, len(faults)),
        retrieval=retrieval,
    )


def _rows(spec: FinetuneSpec, context: JobContext) -> tuple[list[TrainRow], list[TrainRow]]:
    options: dict[str, Any] = {"quarantine": context.quarantine_path, "max_quarantined": spec.data.max_quarantined}
    rows = read_training(Path(spec.data.train).expanduser().absolute(), **options)
    if spec.data.eval is not None:
        return rows, read_training(Path(spec.data.eval).expanduser().absolute(), **options)
    return split(rows, spec.data.eval_fraction)


def _with_passages(
    spec: FinetuneSpec, context: JobContext, rows: Sequence[TrainRow]
) -> tuple[Augmented[Passage], str | None]:
    from tandem.retrieval.retriever import open_retriever

    assert spec.retrieval is not None
    asking = [row.question for row in rows if row.question is not None]
    if not asking:
        raise DataError(
            "`retrieval` is set, and no row has a question to retrieve for",
            where=spec.data.train,
            remedy="give rows with `question` and `answers`, or leave `retrieval` out",
        )
    retriever = open_retriever(context.cluster, spec.retrieval.collection)
    found: list[list[Passage]] = []
    for at in range(0, len(asking), SEARCH_BATCH):
        context.progress("retrieve", at, len(asking))
        found += retriever.search(asking[at : at + SEARCH_BATCH], top_k=SEARCH_DEPTH * spec.retrieval.passages)
    by_row = iter(found)
    augmented = augment(
        rows,
        [next(by_row) if row.question is not None else [] for row in rows],
        passages=spec.retrieval.passages,
        without_gold=spec.retrieval.without_gold,
        seed=spec.schedule.seed,
    )
    context.progress(
        "retrieve",
        len(asking),
        len(asking),
        with_gold=augmented.with_gold,
        gold_withheld=augmented.without_gold,
        gold_not_found=augmented.not_found,
    )
    return augmented, retriever.snapshot.id if retriever.snapshot is not None else None


def _check(spec: FinetuneSpec, context: JobContext, *, rows: int, faults: list[Fault]) -> None:
    write_quarantine(context.quarantine_path, faults)
    check_quarantined(
        faults, rows, spec.data.max_quarantined, what="rows", where=spec.data.train, path=context.quarantine_path
    )


def _write(examples: Sequence[Example], path: Path) -> Path:
    Examples.pack([(example.input_ids, example.loss_mask) for example in examples]).save(path)
    (path / IDS).write_text("".join(json.dumps(example.id) + "\n" for example in examples), encoding="utf-8")
    return path


def _describe(
    train_rows: Sequence[TrainRow],
    eval_rows: Sequence[TrainRow],
    train: Sequence[Example],
    held_out: Sequence[Example],
    quarantined: int,
) -> dict[str, Any]:
    return {
        "train_rows": len(train_rows),
        "eval_rows": len(eval_rows),
        "quarantined": quarantined,
        "train_tokens": sum(len(example.input_ids) for example in train),
        "train_loss_tokens": sum(sum(example.loss_mask) for example in train),
        "eval_tokens": sum(len(example.input_ids) for example in held_out),
        "train_sha256": split_sha256(train_rows),
        "train_ids": [row.id for row in train_rows],
        "train_questions": sorted({question_key(row.question) for row in train_rows if row.question is not None}),
    }
