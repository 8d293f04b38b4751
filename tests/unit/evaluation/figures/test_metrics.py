from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from tandem.evaluation.figures import metrics
from tandem.evaluation.figures.normalize import normalize


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("a an the cat", "cat"),
        ("'/media/'", "media"),
        ("1209600", "1209600"),
        ("None", "none"),
        ("'django.core.mail.backends.smtp.EmailBackend'", "djangocoremailbackendssmtpemailbackend"),
        ("[]", "[]"),
        (" {} ", "{}"),
        ("()", "()"),
        ("''", "''"),
        ("The", "the"),
        ("  ", ""),
    ],
)
def test_normal_forms(text: str, normal: str) -> None:
    assert normalize(text) == normal


def test_answers_of_punctuation_stay_different() -> None:
    forms = ["[]", "{}", "()", "''", "None", "*"]
    for one in forms:
        assert [metrics.exact_match(one, [other]) for other in forms] == [float(one == other) for other in forms]
        assert [metrics.token_f1(one, [other]) for other in forms] == [float(one == other) for other in forms]
        assert metrics.exact_match("", [one]) == 0.0


# By hand, from the definition of SQuAD v1.1: normalised words, multiset overlap.
@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("the cat", ["cat"], 1.0, 1.0),
        ("a cat sat", ["the cat"], 0.0, 2 / 3),  # P 1/2, R 1
        ("b b c", ["b c c"], 0.0, 2 / 3),  # overlap b, c: P 2/3, R 2/3
        ("red", ["blue", "Red."], 1.0, 1.0),  # the best of several
        ("x y", ["x z w", "q"], 0.0, 0.4),  # P 1/2, R 1/3
        ("", ["x"], 0.0, 0.0),
        ("dog", ["cat"], 0.0, 0.0),
    ],
)
def test_em_and_f1(prediction: str, answers: list[str], em: float, f1: float) -> None:
    assert metrics.exact_match(prediction, answers) == em
    assert metrics.token_f1(prediction, answers) == pytest.approx(f1)


def published_normal_form(text: str) -> str:
    """`normalize_answer` of the script that was published with SQuAD v1.1, evaluate-v1.1.py."""
    bare = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def published_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Its `exact_match_score` and `f1_score`, each the best over the answers."""

    def f1(answer: str) -> float:
        said, wanted = published_normal_form(prediction).split(), published_normal_form(answer).split()
        same = sum((Counter(said) & Counter(wanted)).values())
        if same == 0:
            return 0.0
        precision, recall = 1.0 * same / len(said), 1.0 * same / len(wanted)
        return (2 * precision * recall) / (precision + recall)

    exact = max(float(published_normal_form(prediction) == published_normal_form(answer)) for answer in answers)
    return exact, max(map(f1, answers))


def test_em_and_f1_are_those_of_the_published_script() -> None:
    rng = np.random.default_rng(0)
    words = ["the", "A", "an", "cat", "Cat.", "cats", "(sat)", "sat", "on", "the-mat", "mat", "1,000", "1000", "é", "—"]
    exact = 0.0
    for _ in range(3000):
        prediction, *answers = (" ".join(rng.choice(words, rng.integers(1, 5))) for _ in range(4))
        if not all(map(published_normal_form, (prediction, *answers))):
            continue  # where nothing is left of a text, we leave the published rules: see `normalize`
        em, f1 = published_scores(prediction, answers)
        assert (metrics.exact_match(prediction, answers), metrics.token_f1(prediction, answers)) == (em, f1)
        exact += em
    assert exact > 20


def test_nothing_said_is_never_right() -> None:
    assert metrics.exact_match("", ["x", "the"]) == metrics.token_f1("", ["x", "the"]) == 0.0


HYPOTHESES = ["the cat sat on the mat today", "a quick brown fox", "", "12 minutes", "one two three four five"]
REFERENCES = [
    ["the cat sat on a mat"],
    ["the quick brown fox jumps", "a quick fox"],
    ["not answered"],
    ["12 minutes", "twelve minutes", "a dozen"],
    ["one two three four six"],
]


STREAMS = [[r[i] if i < len(r) else None for r in REFERENCES] for i in range(3)]


def bleu_sums(keep: Sequence[int]) -> np.ndarray:
    return np.sum([metrics.sentence_bleu(HYPOTHESES[at], REFERENCES[at]).counts for at in keep], axis=0, dtype=float)


def chrf_sums(keep: Sequence[int]) -> np.ndarray:
    return np.sum([metrics.chrf_counts(HYPOTHESES[at], REFERENCES[at]) for at in keep], axis=0, dtype=float)


@pytest.mark.parametrize("keep", [[0, 1, 2, 3, 4], [0, 0, 3, 4], [2], [3], [2, 3, 1]])
def test_corpus_scores_are_what_sacrebleu_gives(keep: list[int]) -> None:
    said, streams = [HYPOTHESES[at] for at in keep], [[stream[at] for at in keep] for stream in STREAMS]
    bleu = sacrebleu.metrics.BLEU().corpus_score(said, streams).score  # type: ignore[arg-type]
    assert metrics.corpus_bleu(bleu_sums(keep)[None]) == pytest.approx([bleu], abs=1e-12)
    chrf = sacrebleu.metrics.CHRF().corpus_score(said, streams).score  # type: ignore[arg-type]
    assert metrics.corpus_chrf(chrf_sums(keep)[None]) == pytest.approx([chrf], abs=1e-12)
    assert chrf > 0 or keep == [2]


def test_several_corpora_are_scored_at_once() -> None:
    parts = [[0, 1, 2, 3, 4], [2], [0, 0, 4]]
    for sums, score in ((bleu_sums, metrics.corpus_bleu), (chrf_sums, metrics.corpus_chrf)):
        together = score(np.stack([sums(part) for part in parts]))
        assert together.shape == (3,)
        assert together.tolist() == [score(sums(part)[None])[0] for part in parts]


def test_sentence_bleu_is_what_sacrebleu_gives() -> None:
    for hypothesis, references in zip(HYPOTHESES, REFERENCES, strict=True):
        expected = sacrebleu.sentence_bleu(hypothesis, references).score
        assert metrics.sentence_bleu(hypothesis, references).score == pytest.approx(expected)


def test_signatures_name_version_and_settings() -> None:
    found = metrics.signatures()
    assert all(f"version:{sacrebleu.__version__}" in each and "nrefs:var" in each for each in found.values())
    assert "tok:13a" in found["bleu"]
    assert "nc:6" in found["chrf"]


def test_rouge_l() -> None:
    # Longest common subsequence "police the gunman": P 3/4, R 3/4.
    assert metrics.rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(0.75)
    scorer = RougeScorer(["rougeL"])
    expected = max(scorer.score(r, HYPOTHESES[1])["rougeL"].fmeasure for r in REFERENCES[1])
    assert metrics.rouge_l(HYPOTHESES[1], REFERENCES[1]) == pytest.approx(expected)


def test_recall_needs_a_gold_document() -> None:
    assert metrics.recall("b.txt", ["a.txt", "b.txt"]) == 1.0
    assert metrics.recall("c.txt", ["a.txt", "b.txt"]) == 0.0
    assert metrics.recall(None, ["a.txt"]) is None


def test_the_reciprocal_rank_is_that_of_the_first_passage_of_the_gold_document() -> None:
    sources = ["a.txt", "b.txt", "b.txt"]
    assert [metrics.reciprocal_rank(gold, sources) for gold in ("a.txt", "b.txt", "c.txt", None)] == [
        1.0,
        0.5,
        0.0,
        None,
    ]
    assert metrics.reciprocal_rank("a.txt", []) == 0.0


PASSAGE = "The default is 300 seconds, after which the cache is emptied by the server."


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("300 seconds", 1.0),  # the bigram and the number
        ("600 seconds", 0.0),
        ("300 minutes", 0.5),  # the number alone
        ("the cache is emptied by the client", 3 / 4),  # articles don't count: cache is, is emptied, emptied by
        ("server", 1.0),  # of one word the word
        ("client", 0.0),
        ("how long", None),  # only what the question says
        ("12", None),
        ("", None),
        ("!", 0.0),  # an answer of punctuation is one, and stands nowhere
    ],
)
def test_how_much_of_an_answer_the_passages_support(said: str, share: float | None) -> None:
    question = "How long are 12 pages kept?"
    assert metrics.grounded(said, question, [PASSAGE, "Another passage."]) == share


def test_without_passages_nothing_is_supported() -> None:
    assert metrics.grounded("300 seconds", "How long?", []) == 0.0


@pytest.mark.parametrize(
    ("said", "abstains"),
    [
        ("", True),
        ("I don't know.", True),
        ("I don’t know", True),
        ("Sorry, but we cannot answer that.", True),
        ("It is not mentioned in the context.", True),
        ("The answer cannot be determined from the passages", True),
        ("There is no relevant passage.", True),
        ("Not enough information", True),
        ("Unknown.", True),
        ("not specified", True),
        ("N/A", True),
        # Right answers that look like it.
        ("404 Not Found", False),
        ("It is not available on Windows", False),
        ("UnknownMigration", False),
        ("an unknown column", False),
        ("No", False),
        ("None", False),
        ("300 seconds", False),
    ],
)
def test_which_answers_say_that_they_do_not_know(said: str, abstains: bool) -> None:
    assert metrics.abstains(said) is abstains


def test_an_answer_is_in_context_if_one_of_them_stands_in_one_passage() -> None:
    assert metrics.answer_in_context(["nowhere", "20"], ["other", "for 20 minutes"]) == 1.0
    assert metrics.answer_in_context(["nowhere", "2.0"], ["other", "for 20 minutes"]) == 0.0
