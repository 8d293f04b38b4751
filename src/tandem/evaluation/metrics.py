"""Scores of one answer, and of an arm. Several reference answers: the best of them counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tandem.evaluation.normalize import contains, normalize, tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLEU_ORDER = 4


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference answer after normalisation, else 0.0 (SQuAD v1.1's EM)."""
    return float(any(normalize(prediction) == normalize(answer) for answer in answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Harmonic mean of token precision and recall against the best reference, in [0, 1] (SQuAD v1.1's F1)."""
    return max((_f1(tokens(prediction), tokens(answer)) for answer in answers), default=0.0)


def _f1(predicted: list[str], gold: list[str]) -> float:
    common = sum((Counter(predicted) & Counter(gold)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(gold)
    return 2 * precision * recall / (precision + recall)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """F-measure of the longest common subsequence, in [0, 1] (Lin 2004; Google's `rouge-score`, no stemmer)."""
    return max((_rouge().score(answer, prediction)["rougeL"].fmeasure for answer in answers), default=0.0)


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU()


@cache
def _sentence_bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


@dataclass(frozen=True)
class SentenceBleu:
    """BLEU of one answer, and what it adds to the corpus BLEU.

    Attributes:
        score: Sentence BLEU with effective order, 0 to 100; for looking at single items only.
        counts: (10,) correct n-grams for n = 1..4, n-grams for n = 1..4, length, reference length.
    """

    score: float
    counts: tuple[int, ...]


def sentence_bleu(prediction: str, answers: Sequence[str]) -> SentenceBleu:
    """sacrebleu's sentence BLEU (Post 2018, arXiv 1804.08771), against all references together."""
    score = _sentence_bleu().sentence_score(prediction, list(answers))
    return SentenceBleu(float(score.score), (*score.counts, *score.totals, score.sys_len, score.ref_len))


def corpus_bleu(counts: npt.NDArray[np.int64]) -> float:
    """sacrebleu's corpus BLEU, 0 to 100, from the counts of its sentences.

    Args:
        counts: (items, 10) int64, rows of `SentenceBleu.counts`; corpus BLEU depends on their sums alone.

    Returns:
        What ``sacrebleu.corpus_bleu`` gives for the same sentences. 0 where no answer has four tokens.
    """
    sums = [int(value) for value in counts.sum(axis=0)]
    metric = _bleu()
    score = metric.compute_bleu(
        correct=sums[:BLEU_ORDER],
        total=sums[BLEU_ORDER : 2 * BLEU_ORDER],
        sys_len=sums[-2],
        ref_len=sums[-1],
        smooth_method=metric.smooth_method,
        smooth_value=metric.smooth_value,
        effective_order=metric.effective_order,
        max_ngram_order=metric.max_ngram_order,
    )
    return float(score.score)


def bleu_signature() -> str:
    """sacrebleu's signature: the version and settings without which a BLEU score means nothing."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    # A signature states the number of references, which sacrebleu knows once it has seen some.
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature()).replace("nrefs:1|", "nrefs:var|")


def recall(gold: str | None, sources: Sequence[str]) -> float | None:
    """1.0 if the gold document is among the retrieved sources, else 0.0; None where no gold document is known."""
    return None if gold is None else float(gold in sources)


def answer_in_context(answers: Sequence[str], passages: Sequence[str]) -> float:
    """1.0 if a reference answer stands in one of the passages that the model was shown, else 0.0."""
    return float(any(contains(text, answer) for text in passages for answer in answers))
