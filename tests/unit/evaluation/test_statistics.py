from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from tandem.evaluation.metrics import corpus_bleu, sentence_bleu
from tandem.evaluation.statistics import (
    ALPHA,
    compare_pairs,
    counts_interval,
    holm,
    mcnemar,
    mean_interval,
    permutation,
    smallest_p,
    stream,
)


@pytest.mark.parametrize(("share", "items"), [(0.3, 80), (0.6, 142)])
def test_the_interval_covers_the_truth_as_often_as_it_says(share: float, items: int) -> None:
    rng = np.random.default_rng(7)
    trials, covered = 300, 0
    for trial in range(trials):
        values = (rng.random(items) < share).astype(float)
        low, high = mean_interval(values, low=0.0, high=1.0, resamples=400, rng=stream(trial))
        covered += low <= share <= high
    # Four standard errors of a coverage of 0.95 over so many trials.
    assert abs(covered / trials - 0.95) < 4 * (0.95 * 0.05 / trials) ** 0.5


def test_the_interval_narrows_with_more_items() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for items in (50, 5000):
        low, high = mean_interval(rng.random(items), low=0, high=1, resamples=300, rng=stream(0))
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)


def test_equal_values_are_not_certainty() -> None:
    for items in (1, 10, 100):
        low, high = mean_interval(np.zeros(items), low=0.0, high=1.0, resamples=100, rng=stream(0))
        exact = binomtest(0, items).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((0.0, exact.high))
        low, high = mean_interval(np.ones(items), low=0.0, high=1.0, resamples=100, rng=stream(0))
        assert (low, high) == pytest.approx((1.0 - exact.high, 1.0))
        low, high = mean_interval(np.zeros(items), low=-1.0, high=1.0, resamples=100, rng=stream(0))
        assert (low, high) == pytest.approx((-exact.high, exact.high))


def test_an_interval_is_the_same_bit_for_bit_from_the_same_seed() -> None:
    values = np.random.default_rng(3).random(60)
    twice = [mean_interval(values, low=0, high=1, resamples=200, rng=stream(5, "rag", "f1")) for _ in range(2)]
    assert twice[0] == twice[1]
    assert mean_interval(values, low=0, high=1, resamples=200, rng=stream(6, "rag", "f1")) != twice[0]
    assert mean_interval(values, low=0, high=1, resamples=200, rng=stream(5, "raft", "f1")) != twice[0]


def test_the_interval_of_corpus_bleu_holds_it() -> None:
    pairs = [("the cat sat on the mat", "the cat sat on a mat"), ("one two three four", "one two three four five")] * 20
    pairs += [("something else altogether here", "this is what was wanted")] * 20
    counts = np.array([sentence_bleu(h, [r]).counts for h, r in pairs], dtype=np.int64)
    low, high = counts_interval(counts, corpus_bleu, resamples=200, rng=stream(0))
    assert low < corpus_bleu(counts) < high


@pytest.mark.parametrize(("only_a", "only_b", "both"), [(8, 1, 5), (3, 3, 2), (0, 5, 0), (12, 2, 40)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_items(only_a: int, only_b: int, both: int) -> None:
    a = np.array([1.0] * only_a + [0.0] * only_b + [1.0] * both)
    b = np.array([0.0] * only_a + [1.0] * only_b + [1.0] * both)
    n, k = only_a + only_b, min(only_a, only_b)
    by_hand = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar(a, b) == pytest.approx(by_hand)
    assert mcnemar(a, b) == pytest.approx(binomtest(only_a, n).pvalue)
    assert mcnemar(b, a) == pytest.approx(mcnemar(a, b))


def test_arms_that_agree_everywhere_do_not_differ() -> None:
    a = np.array([1.0, 0.0, 0.5])
    assert mcnemar(a, a) == 1.0
    assert permutation(a, a, rng=stream(0)) == 1.0
    assert permutation(a, np.array([1.0, 0.0, 0.4]), rng=stream(0)) == 1.0


def test_the_permutation_test_is_exact_on_few_items() -> None:
    # All 2^5 signs of (.5, .4, .3, .2, .1): the observed sum and its mirror are the most extreme.
    a, b = np.array([0.5, 0.4, 0.3, 0.2, 0.1]), np.zeros(5)
    assert permutation(a, b, rng=stream(0)) == pytest.approx(2 / 32)


def test_items_that_tie_change_nothing_in_the_permutation_test() -> None:
    rng = np.random.default_rng(1)
    a, b = np.round(rng.random(12), 1), np.round(rng.random(12), 1)
    a[3], a[7] = b[3], b[7]
    full = permutation_test(
        (a - b,), np.sum, permutation_type="samples", n_resamples=9_999, rng=np.random.default_rng(0)
    ).pvalue
    assert permutation(a, b, rng=stream(0)) == pytest.approx(full)


def test_holm_by_hand() -> None:
    # Sorted: .01 × 4, .02 × 3, .03 × 2, .04 × 1, each at least the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_arms_are_seldom_called_different() -> None:
    rng = np.random.default_rng(11)
    experiments, false = 120, 0
    for experiment in range(experiments):
        scores = {name: (rng.random(60) < 0.5).astype(float) for name in "abc"}
        pairs = compare_pairs(scores, "em", resamples=100, seed=experiment)
        false += any(pair.p_adjusted < ALPHA for pair in pairs)
    assert false / experiments <= 0.05 + 2 * (0.05 * 0.95 / experiments) ** 0.5


def test_a_planted_difference_is_found_with_its_size() -> None:
    rng = np.random.default_rng(2)
    a = (rng.random(300) < 0.6).astype(float)
    b = (rng.random(300) < 0.3).astype(float)
    (em,) = compare_pairs({"a": a, "b": b}, "em", resamples=500, seed=0)
    assert em.test == "mcnemar"
    assert em.p_adjusted < 0.001
    assert em.ci95[0] < 0.3 < em.ci95[1]
    assert em.diff == pytest.approx(a.mean() - b.mean())
    (f1,) = compare_pairs({"a": a * 0.9, "b": b * 0.9}, "f1", resamples=500, seed=0)
    assert f1.test == "permutation"
    assert f1.p_adjusted < 0.001


def test_the_smallest_p_is_reached_when_one_arm_alone_is_always_right() -> None:
    for items in (1, 4, 9):
        assert mcnemar(np.ones(items), np.zeros(items)) == pytest.approx(smallest_p(items))
