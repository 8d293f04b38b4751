"""Scores of one answer, and of an arm. Several reference answers: the best of them counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from tandem.data.containment import contains
from tandem.evaluation.figures.normalize import normalize, tokens

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

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


def corpus_bleu(sums: Floats) -> Floats:
    """sacrebleu's corpus BLEU, 0 to 100, from the counts of its sentences, on whose sums alone it depends.

    Args:
        sums: (n, 10) float64 sums of `SentenceBleu.counts`.

    Returns:
        (n,) what ``sacrebleu.corpus_bleu`` gives for the same sentences. 0 where no answer has four tokens.
    """
    import numpy as np

    metric = _bleu()
    return np.array(
        [
            metric.compute_bleu(
                correct=row[:BLEU_ORDER],
                total=row[BLEU_ORDER : 2 * BLEU_ORDER],
                sys_len=row[-2],
                ref_len=row[-1],
                smooth_method=metric.smooth_method,
                smooth_value=metric.smooth_value,
                effective_order=metric.effective_order,
                max_ngram_order=metric.max_ngram_order,
            ).score
            for row in np.rint(sums).astype(np.int64).tolist()
        ]
    )


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def chrf_counts(prediction: str, answers: Sequence[str]) -> tuple[int, ...]:
    """What an answer adds to corpus chrF (Popović 2015): for n = 1..6 its character n-grams, the reference's, both.

    Args:
        prediction: The answer.
        answers: References; the one that gives the best sentence score counts, as sacrebleu has it.
    """
    (counts,) = _chrf()._extract_corpus_statistics([prediction], [[answer] for answer in answers])
    return tuple(counts)


def corpus_chrf(sums: Floats) -> Floats:
    """sacrebleu's corpus chrF2, 0 to 100.

    Args:
        sums: (n, 18) float64 sums of `chrf_counts`.

    Returns:
        (n,) what ``sacrebleu.corpus_chrf`` gives for the same sentences.
    """
    import numpy as np

    metric = _chrf()
    return np.array([metric._compute_f_score(row) for row in sums.tolist()])


# By metric, what an answer adds to it: prediction and references → counts, on whose sums alone the figure depends.
COUNTS: dict[str, Callable[[str, Sequence[str]], tuple[int, ...]]] = {
    "bleu": lambda prediction, answers: sentence_bleu(prediction, answers).counts,
    "chrf": chrf_counts,
}


def signatures() -> dict[str, str]:
    """sacrebleu's signatures: the version and settings without which a score means nothing."""
    from sacrebleu.metrics import BLEU, CHRF

    found = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        # A signature states the number of references, which sacrebleu knows once it has seen some.
        metric.corpus_score(["a"], [["a"]])
        found[name] = str(metric.get_signature()).replace("nrefs:1|", "nrefs:var|")
    return found


def recall(gold: str | None, sources: Sequence[str]) -> float | None:
    """1.0 if the gold document is among the retrieved sources, else 0.0; None where no gold document is known."""
    return None if gold is None else float(gold in sources)


def reciprocal_rank(gold: str | None, sources: Sequence[str]) -> float | None:
    """One over the gold document's rank among the retrieved sources, 0.0 where it isn't; None where none is known."""
    if gold is None:
        return None
    return 1.0 / (1 + sources.index(gold)) if gold in sources else 0.0


def answer_in_context(answers: Sequence[str], passages: Sequence[str]) -> float:
    """1.0 if a reference answer stands in one of the passages that the model was shown, else 0.0."""
    return float(any(contains(text, answer) for text in passages for answer in answers))


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_UNKNOWN = re.compile(
    r"\b(?:i|we) (?:do not|don't|dont|cannot|can't|could not|couldn't) (?:know|answer|find|tell|say)\b"
    r"|\b(?:cannot|can't|could not|couldn't) be (?:answered|determined)\b"
    # Not "404 Not Found", nor "not available on Windows", which may be right answers.
    r"|\b(?:not|isn't|aren't) (?:mentioned|given|stated|specified|found|provided|available) (?:in|by) "
    r"(?:the|this|that|these|those|any)\b"
    r"|\b(?:not enough|insufficient|no) (?:information|context|answer)\b|\bno relevant \w+\b"
    r"|\b(?:is|are) (?:unknown|unanswerable)\b"
)
_UNKNOWN_ALONE = re.compile(
    r"(?:unknown|unanswerable|unclear|n/a|not (?:mentioned|given|stated|specified|provided))[.!]?"
)


def grounded(prediction: str, question: str, passages: Sequence[str]) -> float | None:
    """How much of an answer the passages support, without a judge, in [0, 1].

    The share of its bigrams of normalised words, and of its numbers, that stand in a passage; of a one-word answer the
    word. What the question says already is left out: repeating it needs no support. This is precision over n-grams, as
    in the extractive fragment coverage of Grusky et al. 2018 (arXiv 1804.11283): it sees words, not meaning.

    Args:
        prediction: The answer.
        question: What was asked.
        passages: As shown to the model.

    Returns:
        None where nothing is said that could be supported.
    """
    said = tokens(prediction)
    n = min(2, len(said))
    if not n:
        return None
    asked = _grams(tokens(question), n)
    supported = set().union(*(_grams(tokens(passage), n) for passage in passages))
    numbers = {number for passage in passages for number in _NUMBER.findall(passage)}
    repeated = frozenset(_NUMBER.findall(question))
    checks = [gram in supported for gram in _grams_of(said, n) if gram not in asked]
    checks += [number in numbers for number in _NUMBER.findall(prediction) if number not in repeated]
    return sum(checks) / len(checks) if checks else None


def _grams_of(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def _grams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return set(_grams_of(words, n))


def abstains(prediction: str) -> bool:
    """Whether an answer says that it doesn't know: nothing at all, or one of the usual English phrases."""
    said = " ".join(prediction.lower().replace("’", "'").split())
    return not said or any(pattern(said) is not None for pattern in (_UNKNOWN.search, _UNKNOWN_ALONE.fullmatch))
