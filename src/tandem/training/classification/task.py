"""Sequence classification: one label for a text, learnt by a head on a pretrained model."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tandem.training.classification.metrics import confusion_matrix, macro_f1

_PEFT_HEADS = ("classifier", "score")  # PEFT itself trains and saves these for the task


@dataclass(frozen=True)
class LabelledExamples:
    """Texts as tokens with their classes, in flat arrays that every worker maps from files.

    Args:
        input_ids: (tokens,) int32, all texts one after another.
        offsets: (texts + 1,) int64, where each begins and the last ends.
        labels: (texts,) int64, the class of each.
        weights: (texts,) float32, what the loss of each counts.
    """

    input_ids: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]

    @classmethod
    def of(
        cls, sequences: Sequence[Sequence[int]], labels: Sequence[int], weights: Sequence[float]
    ) -> LabelledExamples:
        """From the token ids, class and weight of each text."""
        lengths = [len(ids) for ids in sequences]
        return cls(
            np.fromiter((i for ids in sequences for i in ids), dtype=np.int32, count=sum(lengths)),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            np.asarray(labels, dtype=np.int64),
            np.asarray(weights, dtype=np.float32),
        )

    def save(self, folder: Path) -> None:
        """Write one .npy file for each array; the folder is made."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @classmethod
    def load(cls, folder: str | Path) -> LabelledExamples:
        """Map what `save` wrote."""
        return cls(
            *(np.load(Path(folder) / f"{field.name}.npy", mmap_mode="r", allow_pickle=False) for field in fields(cls))
        )

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Tokens of each text, counted once: every step asks."""
        return array("q", np.diff(self.offsets).astype(np.int64).tobytes())

    def loss_weight(self, indices: Sequence[int]) -> float:
        """What the summed loss of these texts is divided by: their weights."""
        return float(sum(float(self.weights[index]) for index in indices))

    def collate(self, indices: Sequence[int], pad_id: int) -> tuple[Any, ...]:
        """A micro-batch, padded on the right.

        Returns:
            input_ids (batch, seq) int64, attention_mask (batch, seq) int64, labels (batch,) int64, weights (batch,)
            float32: torch tensors.
        """
        import torch

        longest = max(int(self.offsets[i + 1] - self.offsets[i]) for i in indices)
        ids = torch.full((len(indices), longest), pad_id, dtype=torch.int64)
        attention = torch.zeros((len(indices), longest), dtype=torch.int64)
        for row, i in enumerate(indices):
            begin, end = int(self.offsets[i]), int(self.offsets[i + 1])
            ids[row, : end - begin] = torch.from_numpy(self.input_ids[begin:end].astype(np.int64))
            attention[row, : end - begin] = 1
        labels = torch.tensor([int(self.labels[i]) for i in indices])
        return ids, attention, labels, torch.tensor([float(self.weights[i]) for i in indices])


class Classification:
    """A pretrained model with a head that tells classes.

    Args:
        labels: Names of the classes, in the order of their numbers.
        pad_id: The token that fills up rows; a decoder finds the end of a text by it.
    """

    def __init__(self, labels: Sequence[str], pad_id: int) -> None:
        self._labels = tuple(labels)
        self._pad_id = pad_id
        self._fresh: tuple[str, ...] = ()

    def load_model(self, path: str, **options: Any) -> Any:
        """See `Task`: the base with a fresh head."""
        from transformers import AutoModelForSequenceClassification

        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path,
            trust_remote_code=False,
            output_loading_info=True,
            num_labels=len(self._labels),
            id2label=dict(enumerate(self._labels)),
            label2id={label: number for number, label in enumerate(self._labels)},
            # A base that was itself a classifier, of other classes, gets a new head too.
            ignore_mismatched_sizes=True,
            **options,
        )
        model.config.pad_token_id = self._pad_id
        model.config.problem_type = "single_label_classification"
        missing = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
        self._fresh = fresh_modules(missing, model.base_model_prefix)
        return model

    def lora_options(self) -> dict[str, Any]:
        """See `Task`: what the base has no weights for is trained whole, and saved with the adapter."""
        beside = [name for name in self._fresh if name not in _PEFT_HEADS]
        return {"task_type": "SEQ_CLS", "modules_to_save": beside or None}

    def load_data(self, path: str) -> LabelledExamples:
        """See `Task`."""
        return LabelledExamples.load(path)

    def loss(self, engine: Any, head: Any, batch: Sequence[Any]) -> tuple[Any, Any]:  # noqa: ARG002 - a Task's
        """See `Task`: weighted cross-entropy of the classes."""
        from torch.nn import functional

        input_ids, attention_mask, labels, weights = batch
        logits = engine(input_ids=input_ids, attention_mask=attention_mask).logits.float()  # (batch, classes)
        return (functional.cross_entropy(logits, labels, reduction="none") * weights).sum(), logits

    def measure(self, logits: Any, data: LabelledExamples) -> dict[str, float]:
        """See `Task`: accuracy and macro-F1."""
        predicted = logits.argmax(dim=-1).cpu().numpy()
        confusion = confusion_matrix(np.asarray(data.labels), predicted, logits.shape[-1])
        accuracy = float(np.trace(confusion) / confusion.sum())
        return {"eval_accuracy": accuracy, "eval_macro_f1": float(macro_f1(confusion))}


def fresh_modules(missing: set[str], base_prefix: str) -> tuple[str, ...]:
    """The modules that were initialised at random, since the base has no weights for them.

    Args:
        missing: Names of parameters, as ``score.weight``, ``bert.pooler.dense.bias``, ``classifier.out_proj.weight``.
        base_prefix: The attribute that holds the base, as ``bert``.

    Returns:
        Sorted names: the whole head (``classifier``), and single modules inside the base.
    """
    inside = {key.rpartition(".")[0] for key in missing if key.startswith(f"{base_prefix}.")}
    heads = {key.partition(".")[0] for key in missing if not key.startswith(f"{base_prefix}.")}
    return tuple(sorted(inside | heads))


def class_weights(labels: Sequence[int], scheme: str) -> dict[int, float]:
    """What the loss of a text of each class counts.

    Args:
        labels: Classes of the training texts.
        scheme: ``none``: 1 for each; ``balanced``: rows / (classes × rows of the class), so that every class counts
            the same in all (King & Zeng 2001, as in scikit-learn).
    """
    counts = Counter(labels)
    if scheme == "none":
        return dict.fromkeys(counts, 1.0)
    return {label: len(labels) / (len(counts) * count) for label, count in counts.items()}
