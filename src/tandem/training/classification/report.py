"""What is left of a classifier's evaluation: figures, the confusion matrix as a picture, every prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tandem.data.labelled import LabelledRow
from tandem.training.classification.metrics import Scores, draw_confusion, score
from tandem.training.classification.prepare import Classes

EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.jsonl"
PICTURE = "confusion.png"


def write_evaluation(
    logits: np.ndarray[Any, Any], rows: Sequence[LabelledRow], labels: Sequence[str], folder: Path, *, seed: int
) -> Scores:
    """Write ``evaluation.json``, ``confusion.png`` and ``predictions.jsonl`` of the held-out rows.

    Args:
        logits: (rows, classes) float32, of the weights that the artifact holds.
        rows: Held-out rows, in the same order; at least one.
        labels: Names of the classes.
        folder: The artifact's.
        seed: Of the bootstrap.

    Returns:
        The figures.
    """
    predicted = logits.argmax(axis=1)
    numbers = {label: number for number, label in enumerate(labels)}
    scores = score([numbers[row.label] for row in rows], predicted.tolist(), labels, seed=seed)
    figures = {"labels": list(labels), **asdict(scores)}
    (folder / EVALUATION).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_confusion(scores, folder / PICTURE)
    with (folder / PREDICTIONS).open("w", encoding="utf-8") as file:
        for row, choice, chances in zip(rows, predicted, _softmax(logits), strict=True):
            line = {
                "id": row.id,
                "label": row.label,
                "predicted": labels[int(choice)],
                "probabilities": {label: round(float(p), 6) for label, p in zip(labels, chances, strict=True)},
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return scores


def evaluate_classes(classes: Classes, logits: Path, folder: Path, *, seed: int) -> dict[str, Any]:
    """What the job says of a classifier: its labels, notes on the data, and figures where there are rows held out.

    Args:
        classes: From `prepare_labelled`.
        logits: Where the workers wrote them.
        folder: The artifact's.
        seed: Of the bootstrap.
    """
    said: dict[str, Any] = {"labels": list(classes.labels), "notes": list(classes.notes)}
    if not classes.held_out:
        return said
    array = np.load(logits, allow_pickle=False)
    return said | headline(write_evaluation(array, classes.held_out, classes.labels, folder, seed=seed))


def headline(scores: Scores) -> dict[str, Any]:
    """The figures for the job's result and the tracking: accuracy and macro-F1 with intervals, F1 of each class."""
    return {
        "eval_n": scores.n,
        "accuracy": scores.accuracy,
        "accuracy_ci95": list(scores.accuracy_ci95),
        "macro_f1": scores.macro_f1,
        "macro_f1_ci95": list(scores.macro_f1_ci95) if scores.macro_f1_ci95 is not None else None,
        "f1": {label: one.f1 for label, one in scores.per_class.items()},
    }


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray[Any, Any] = powers / powers.sum(axis=1, keepdims=True)
    return result
