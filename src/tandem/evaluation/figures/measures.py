"""What is measured, under which name: one table for figures, tests, plots and pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["generation", "classification"]
# How an arm's figure comes from its items: their mean, or a statistic of all of them together.
Over = Literal["mean", "counts", "classes"]


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        name: Its key in report.json.
        title: For a plot.
        head: For a table's column.
        says: What it is, for a reader who doesn't know it.
        over: How an arm's figure comes from its items.
        high: The greatest value; the least is 0.
        tested: Whether pairs of arms are tested on it.
        sliced: Whether it is shown by slices too.
        better: Whether more of it is better, so that it may decide; None where it only describes.
    """

    name: str
    title: str
    head: str
    says: str
    over: Over = "mean"
    high: float = 1.0
    tested: bool = False
    sliced: bool = False
    better: bool | None = True

    def points(self, value: float) -> float:
        """A figure, or a difference of two, in hundredths of the range."""
        return 100.0 * value / self.high

    def number(self, value: float | None) -> str:
        """A figure as it is printed: two decimals of a share, one of what goes to a hundred or beyond."""
        return "–" if value is None else f"{value:.{2 if self.high <= 1 else 1}f}"


GENERATION = (
    Measure(
        "em",
        "Exactly right (EM)",
        "EM",
        "share of answers that equal a right one after SQuAD's normalisation",
        tested=True,
        sliced=True,
    ),
    Measure(
        "f1",
        "Token F1",
        "F1",
        "words in common with the right answer, as SQuAD counts them",
        tested=True,
        sliced=True,
    ),
    Measure("bleu", "BLEU", "BLEU", "n-grams in common with the right answers, sacrebleu's", over="counts", high=100.0),
    Measure("chrf", "chrF", "chrF", "character n-grams in common, sacrebleu's chrF2", over="counts", high=100.0),
    Measure("rouge_l", "ROUGE-L", "ROUGE-L", "longest common run of words, F-measure"),
    Measure(
        "recall_at_k",
        "Gold document retrieved",
        "recall@k",
        "share of questions whose right document is among those retrieved",
        sliced=True,
        better=None,
    ),
    Measure(
        "mrr", "Mean reciprocal rank", "MRR", "one over the right document's rank, 0 where it isn't found", better=None
    ),
    Measure(
        "answer_in_context",
        "Answer in the context",
        "in context",
        "share of questions whose answer stands in a passage that the model was shown",
        better=None,
    ),
    Measure(
        "grounded",
        "Grounded",
        "grounded",
        "share of an answer's words, by pairs, and of its numbers that stand in the passages shown",
        better=None,
    ),
    Measure("abstained", "Abstained", "abstained", "share of answers that say they don't know", better=None),
    Measure("words", "Words", "words", "mean length of an answer", high=float("inf"), better=None),
)

CLASSIFICATION = (
    Measure("accuracy", "Accuracy", "accuracy", "share of texts given their label", tested=True, sliced=True),
    Measure(
        "macro_f1",
        "Macro-F1",
        "macro-F1",
        "F1 of each label, averaged over labels: rare labels count as much as common ones",
        over="classes",
        tested=True,
        sliced=True,
    ),
    Measure(
        "neighbour_accuracy",
        "Neighbours that agree",
        "neighbours",
        "share of the retrieved neighbours that have the text's label",
        better=None,
    ),
)

BY_TASK: dict[Task, tuple[Measure, ...]] = {"generation": GENERATION, "classification": CLASSIFICATION}
BY_NAME = {measure.name: measure for table in BY_TASK.values() for measure in table}
