"""From texts with labels to tokens with classes on the shared storage: read, split, tokenize, check, write."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.job import EVAL_EXAMPLES, TRAIN_EXAMPLES, JobContext
from tandem.data.duplicates import text_digest
from tandem.data.labelled import LabelledRow, labelled_source, read_labelled
from tandem.data.labelled_splits import LabelledSplit, find_labels, labelled_sha256, split_labelled
from tandem.data.quarantine import check_quarantined, count_quarantined, write_quarantine
from tandem.errors import ModelError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.classification.task import LabelledExamples, class_weights
from tandem.training.data.dataset import IDS
from tandem.training.data.reuse import Prepared, keep, kept
from tandem.training.methods.positions import read_config

BATCH_ROWS = 1_000  # tokenized at once
SHOWN_TOKENS = 24


@dataclass(frozen=True)
class Classes:
    """What is to be told apart.

    Args:
        labels: Names of the classes, sorted; a class's number is its place.
        held_out: Rows to measure on.
        notes: What whoever reads the result should know of the data.
    """

    labels: tuple[str, ...]
    held_out: tuple[LabelledRow, ...]
    notes: tuple[str, ...]


def prepare_labelled(spec: FinetuneSpec, context: JobContext, tokenizer: Any, model: Path) -> tuple[Prepared, Classes]:
    """Read the rows, divide them, turn them into tokens, and write those; or find that an earlier attempt did.

    Args:
        spec: The job.
        context: Where to write.
        tokenizer: The model's; it is given a token to pad with if it has none.
        model: The base model's folder.

    Raises:
        DataError: A file is missing or empty, too many rows can't be used, there is one class, or one that can't be
            learnt.
        ModelError: The model has no head for classes, or nothing to pad with.
        NotFoundError, InputError, UnreachableError: From resolving a URI.
    """
    notes = [*_fit_model(spec, model, tokenizer)]
    earlier = kept(spec, context)
    if earlier is not None:
        prepared, said = earlier
        held = tuple(LabelledRow(**row) for row in said["held_out"])
        return prepared, Classes(tuple(said["labels"]), held, tuple(said["notes"]))
    rows, held_out = _read(spec, context)
    split = split_labelled(rows, held_out, eval_fraction=spec.data.eval_fraction, where=spec.data.train)
    write_quarantine(context.quarantine_path, split.contradictions)
    check_quarantined(
        split.contradictions,
        len(rows),
        spec.data.max_quarantined,
        what="rows",
        where=spec.data.train,
        path=context.quarantine_path,
    )
    labels = find_labels(split, where=spec.data.train, eval_where=spec.data.eval or spec.data.train)
    notes += data_notes(split, labels)
    total = len(split.train) + len(split.eval)
    context.progress("tokenize", 0, total)
    weights = class_weights([labels.index(row.label) for row in split.train], spec.class_weights)
    options: dict[str, Any] = {"labels": labels, "weights": weights, "max_length": spec.schedule.max_length}
    train, cut = _examples(split.train, tokenizer, **options)
    evaluation, cut_held_out = _examples(split.eval, tokenizer, **options)
    if cut + cut_held_out:
        notes.append(
            f"{cut + cut_held_out} of {total} texts are longer than max_length {spec.schedule.max_length}: "
            "what comes after it isn't read"
        )
    data = {
        **_describe(split, labels, train, evaluation),
        "truncated": cut,
        "eval_truncated": cut_held_out,
        "selection_texts": _digests(split.eval) if spec.early_stopping.enabled else [],
        "quarantined": count_quarantined(context.quarantine_path),
    }
    print(_shown(split, train, tokenizer, labels, notes), flush=True)
    context.progress("tokenize", total, total)
    train_path, eval_path = context.dir / TRAIN_EXAMPLES, context.dir / EVAL_EXAMPLES
    _save(train, split.train, train_path)
    if len(evaluation):
        _save(evaluation, split.eval, eval_path)
    prepared = Prepared(
        train=train_path,
        eval=eval_path if len(evaluation) else None,
        examples=len(train),
        data=data,
        retrieval=None,
    )
    held_rows = [asdict(row) for row in split.eval]
    keep(spec, context, prepared, {"labels": labels, "notes": notes, "held_out": held_rows})
    return prepared, Classes(labels, split.eval, tuple(notes))


def data_notes(split: LabelledSplit, labels: Sequence[str]) -> list[str]:
    """What should be said of how the rows were divided."""
    notes = []
    if split.duplicates:
        notes.append(f"{split.duplicates} rows have the words and the label of another one and were left out")
    if split.contradictions:
        notes.append(f"{len(split.contradictions)} rows whose text stands under several labels were set aside")
    if split.near_duplicates:
        notes.append(f"{split.near_duplicates} rows nearly repeat another one: such rows are on one side of the split")
    if split.leaked:
        notes.append(f"{split.leaked} training rows were left out, since data.eval has their text, or nearly")
    if not split.eval:
        notes.append("no rows to evaluate on: nothing is measured")
    else:
        absent = sorted(set(labels) - {row.label for row in split.eval})
        if absent:
            notes.append(f"no row to evaluate on has the label {', '.join(map(repr, absent))}: nothing is known of it")
    return notes


def ensure_padding(tokenizer: Any) -> str | None:
    """Give a tokenizer a token to pad with if it has none; says which, in that case.

    A decoder's head reads the last token that isn't padding, so the same token must pad in training and in use: it is
    saved with the model.

    Raises:
        ModelError: It has none that could serve.
    """
    if tokenizer.pad_token_id is not None:
        return None
    for name in ("eos_token", "unk_token"):
        token = getattr(tokenizer, name)
        if token is not None:
            tokenizer.pad_token = token
            return f"the tokenizer has no token to pad with: its {name} {token!r} does, and is saved as pad_token"
    raise ModelError(
        "its tokenizer has no token to pad with, nor an end-of-sequence or unknown token that could serve",
        where=str(tokenizer.name_or_path),
        remedy="set pad_token in its tokenizer_config.json",
    )


def _fit_model(spec: FinetuneSpec, model: Path, tokenizer: Any) -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    config = read_config(model)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"transformers has no sequence classification for {config.model_type!r} models",
            where=spec.model,
            remedy="choose another base, or task: generation",
        )
    note = ensure_padding(tokenizer)
    return [note] if note else []


def _read(spec: FinetuneSpec, context: JobContext) -> tuple[list[LabelledRow], list[LabelledRow] | None]:
    def read(uri: str) -> list[LabelledRow]:
        return read_labelled(
            labelled_source(uri, storage=context.storage),
            quarantine=context.quarantine_path,
            max_quarantined=spec.data.max_quarantined,
        )

    return read(spec.data.train), read(spec.data.eval) if spec.data.eval is not None else None


def _examples(
    rows: Sequence[LabelledRow], tokenizer: Any, *, labels: Sequence[str], weights: dict[int, float], max_length: int
) -> tuple[LabelledExamples, int]:
    """The rows as tokens, and how many were cut."""
    sequences: list[list[int]] = []
    cut = 0
    for at in range(0, len(rows), BATCH_ROWS):
        texts = [row.text for row in rows[at : at + BATCH_ROWS]]
        # One token more than is used tells which texts are longer, without tokenizing a whole book.
        longer = tokenizer(texts, truncation=True, max_length=max_length + 1)["input_ids"]
        encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        cut += sum(len(ids) > max_length for ids in longer)
        sequences += encoded
    numbers = [labels.index(row.label) for row in rows]
    return LabelledExamples.of(sequences, numbers, [weights[number] for number in numbers]), cut


def _describe(
    split: LabelledSplit, labels: Sequence[str], train: LabelledExamples, evaluation: LabelledExamples
) -> dict[str, Any]:
    learnt, measured = Counter(row.label for row in split.train), Counter(row.label for row in split.eval)
    return {
        "train_rows": len(split.train),
        "eval_rows": len(split.eval),
        "labels": {label: {"train": learnt[label], "eval": measured[label]} for label in labels},
        "duplicates": split.duplicates,
        "near_duplicates": split.near_duplicates,
        "contradictions": len(split.contradictions),
        "leaked": split.leaked,
        "train_tokens": len(train.input_ids),
        "eval_tokens": len(evaluation.input_ids),
        "train_sha256": labelled_sha256(split.train),
        "eval_sha256": labelled_sha256(split.eval),
        "train_ids": [row.id for row in split.train],
        "train_texts": _digests(split.train),
    }


def _digests(rows: Sequence[LabelledRow]) -> list[str]:
    return sorted(text_digest(row.text) for row in rows)


def _save(examples: LabelledExamples, rows: Sequence[LabelledRow], folder: Path) -> None:
    examples.save(folder)
    (folder / IDS).write_text("".join(json.dumps(row.id) + "\n" for row in rows), encoding="utf-8")


def _shown(
    split: LabelledSplit, train: LabelledExamples, tokenizer: Any, labels: Sequence[str], notes: Sequence[str]
) -> str:
    lines = [f"{len(split.train)} texts to learn from, {len(split.eval)} to evaluate on, {len(labels)} labels:"]
    shown: set[str] = set()
    for number, row in enumerate(split.train):
        if row.label in shown or len(shown) == 10:
            continue
        shown.add(row.label)
        begin, end = int(train.offsets[number]), int(train.offsets[number + 1])
        text = tokenizer.decode(list(train.input_ids[begin : min(end, begin + SHOWN_TOKENS)])).replace("\n", "⏎")
        lines.append(f"  {row.label}: {text}{' …' if end - begin > SHOWN_TOKENS else ''} ({end - begin} tokens)")
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])
