"""One row per arm and text: the label that was given, whether it is right, what it took."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.data.rows import QaRow
from tandem.evaluation.asking.arms import Arm, Passage
from tandem.evaluation.asking.items import Answer
from tandem.evaluation.figures.scoring import ScoredItem


def score_label(
    arm: Arm,
    row: QaRow,
    answer: Answer,
    labels: Sequence[str],
    neighbours: Sequence[Passage],
    retrieval_s: float,
    *,
    seed: int = 0,
) -> ScoredItem:
    """Score one answer; a failed one is wrong, and was given no label.

    Args:
        arm: Who answered.
        row: The text with its label.
        answer: What came.
        labels: All that there are.
        neighbours: Of the text, their labels as sources; empty where the arm has none.
        retrieval_s: Seconds that finding them took for one text; added where the arm has them.
        seed: Which of the arm's classifiers answered.
    """
    (label,) = row.answers
    retrieval_s = retrieval_s if neighbours else 0.0
    given = None if answer.failure is not None else answer.prediction
    agree = [float(neighbour.source == label) for neighbour in neighbours]
    # For each label its text, whether it was given, and whether rightly: macro-F1 comes from their sums.
    counts = [(float(each == label), float(each == given), float(each == label == given)) for each in labels]
    return ScoredItem(
        arm=arm.name,
        id=row.id,
        question=row.question,
        answers=row.answers,
        source=None,
        extra=row.extra,
        prediction=given or "",
        failure=answer.failure,
        scores={
            "accuracy": float(given == label),
            "neighbour_accuracy": sum(agree) / len(agree) if agree else None,
        },
        sentence_bleu=None,
        counts={"macro_f1": tuple(value for each in counts for value in each)},
        passages=tuple(neighbours),
        shown=answer.shown,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        finish_reason=answer.finish_reason,
        latency_ms=None if answer.latency_ms is None else answer.latency_ms + 1000.0 * retrieval_s,
        seconds=answer.seconds + retrieval_s,
        seed=seed,
    )
