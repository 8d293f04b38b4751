from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from tandem.evaluation import metrics
from tandem.evaluation.normalize import contains, normalize


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


HYPOTHESES = ["the cat sat on the mat today", "a quick brown fox", "", "12 minutes", "one two three four five"]
REFERENCES = [
    ["the cat sat on a mat"],
    ["the quick brown fox jumps", "a quick fox"],
    ["not answered"],
    ["12 minutes", "twelve minutes", "a dozen"],
    ["one two three four six"],
]


def test_bleu_is_what_sacrebleu_gives() -> None:
    counts = np.array([metrics.sentence_bleu(h, r).counts for h, r in zip(HYPOTHESES, REFERENCES, strict=True)])
    streams = [[r[i] if i < len(r) else None for r in REFERENCES] for i in range(3)]
    expected = sacrebleu.metrics.BLEU().corpus_score(HYPOTHESES, streams).score  # type: ignore[arg-type]
    assert 0 < expected < 100
    assert metrics.corpus_bleu(counts) == pytest.approx(expected, abs=1e-12)


def test_sentence_bleu_is_what_sacrebleu_gives() -> None:
    for hypothesis, references in zip(HYPOTHESES, REFERENCES, strict=True):
        expected = sacrebleu.sentence_bleu(hypothesis, references).score
        assert metrics.sentence_bleu(hypothesis, references).score == pytest.approx(expected)


def test_the_signature_names_version_and_tokenizer() -> None:
    assert f"version:{sacrebleu.__version__}" in metrics.bleu_signature()
    assert "tok:13a" in metrics.bleu_signature()


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


@pytest.mark.parametrize(
    ("text", "answer", "there"),
    [
        ("Default: ``1209600`` (2 weeks)", "1209600", True),
        ("Default: 12096001", "1209600", False),
        ("Default: ``[]`` (Empty list)", "[]", True),
        ("Default: empty", "[]", False),
        ("Default: '/media/'", "'/media/'", True),
        ("It is a  very\nlong answer.", "very long answer", True),
        ("anything", "  ", False),
    ],
)
def test_whether_an_answer_stands_in_a_text(text: str, answer: str, there: bool) -> None:
    assert contains(text, answer) is there
    assert metrics.answer_in_context(["nowhere", answer], ["other", text]) == float(there)
