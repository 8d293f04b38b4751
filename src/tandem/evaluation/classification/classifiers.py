"""What a classifier's manifest says: other labels are refused, texts that it was trained on aren't asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import MANIFEST, read_manifest, sha256_file
from tandem.artifacts.uris import resolve
from tandem.data.duplicates import text_digest
from tandem.data.rows import QaRow
from tandem.errors import DataError, ModelError
from tandem.evaluation.asking.adapters import Adapter, selection_note
from tandem.evaluation.classification.rows import Texts
from tandem.models.classifier import ADAPTER, classifier_labels


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        artifact: Where it is, and what is known of its training.
        labels: In the order of its outputs.
        base: URI of the base model, for an adapter; None for whole weights.
        max_length: Tokens of a text that it was trained to read; None where nothing says so.
    """

    artifact: Adapter
    labels: tuple[str, ...]
    base: str | None
    max_length: int | None


def read_classifier(uri: str, labels: Sequence[str], *, storage: Path) -> Classifier:
    """Find a classifier and read what its folder says of it.

    Args:
        uri: The spec's.
        labels: That there are to tell apart.
        storage: Where `artifact:` URIs are looked up.

    Raises:
        ModelError: Not a classifier, an incomplete one, or one of other labels.
        NotFoundError: Nothing is there.
    """
    path = resolve(uri, storage=storage)
    weights = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not weights:
        raise ModelError(
            "no weights in safetensors", where=uri, remedy="give what a finetune job with task: classification made"
        )
    digests = [sha256_file(file) for file in weights]
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
    meta = manifest.meta if manifest else {}
    if meta.get("task", "classification") != "classification":
        raise ModelError(f"trained for {meta['task']}, it tells no labels", where=uri)
    artifact = Adapter(uri, path, sha256, manifest.id if manifest else None, meta)
    adapter = (path / ADAPTER).is_file()
    known = (meta.get("metrics") or {}).get("labels") or classifier_labels(path)
    base = meta.get("base_model") if adapter else None
    if known is None or (adapter and base is None):
        raise ModelError(
            "nothing says which labels it tells apart, or on which base model",
            where=uri,
            remedy="give what a finetune job with task: classification made",
        )
    if set(known) != set(labels):
        raise ModelError(
            f"it tells {', '.join(map(repr, known))} apart, and the rows have {', '.join(map(repr, labels))}",
            where=uri,
            remedy="train one on the rows of `train`",
        )
    return Classifier(artifact, tuple(known), base, _max_length(path))


def _max_length(path: Path) -> int | None:
    """As the spec that it was trained with says."""
    try:
        spec: dict[str, Any] = json.loads((path / "spec.json").read_text())
    except FileNotFoundError:
        return None
    return int(spec["schedule"]["max_length"])


def held_out(classifiers: Sequence[Classifier], texts: Texts, *, where: str) -> tuple[list[QaRow], list[str]]:
    """The texts that no classifier was trained on: the same for every arm.

    Where a manifest has the hash of our very training rows nothing else need be looked at: the split keeps texts, and
    what nearly repeats them, on one side.

    Args:
        classifiers: Of all arms.
        texts: What is known and asked.
        where: The file of those that are asked.

    Returns:
        What to ask, and notes for the report.

    Raises:
        DataError: None is left.
    """
    leaked: set[str] = set()
    notes = []
    for classifier in classifiers:
        uri, data = classifier.artifact.uri, classifier.artifact.meta.get("data") or {}
        if data.get("train_sha256") == texts.train_sha256:
            continue
        seen = _seen(data, texts)
        if seen is None:
            notes.append(f"{uri}: nothing says which rows it was trained on, so a leak can't be ruled out.")
            continue
        notes.append(
            f"{uri} was trained on other rows than those among which neighbours are found (is eval_fraction the "
            "classifier's?): its arms and rag don't know the same."
        )
        if seen:
            leaked |= seen
            notes.append(f"{uri} was trained on {len(seen)} of the {len(texts.asked)} texts: no arm was asked them.")
    if len(leaked) == len(texts.asked):
        raise DataError(
            f"all {len(texts.asked)} texts were trained on",
            where=where,
            remedy="evaluate on texts that were held out of training",
        )
    return [row for row in texts.asked if row.id not in leaked], notes


def selection_notes(classifiers: Sequence[Classifier], rows: Sequence[QaRow]) -> list[str]:
    """Which classifiers' checkpoints were chosen by texts that are asked: that favours them.

    Args:
        classifiers: Of all arms.
        rows: The texts that are asked.
    """
    digests = [text_digest(row.question) for row in rows]
    notes = []
    for classifier in classifiers:
        data = classifier.artifact.meta.get("data") or {}
        known = frozenset(data.get("selection_texts") or ())
        count = sum(digest in known for digest in digests)
        notes += selection_note(classifier.artifact.uri, count, f"of the {len(digests)} texts")
    return notes


def _seen(data: dict[str, Any], texts: Texts) -> set[str] | None:
    """Ids of the texts that were trained on; None where nothing says so."""
    digests, ids = data.get("train_texts"), data.get("train_ids")
    if digests is not None:
        known = frozenset(digests)
        return {row.id for row in texts.asked if text_digest(row.question) in known}
    # Older artifacts have ids alone, which may be row numbers: it errs on the side of too many.
    return None if ids is None else {row.id for row in texts.asked if row.id in frozenset(ids)}
