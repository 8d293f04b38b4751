from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test
from sklearn.metrics import f1_score

from tandem.evaluation.figures.pairs import PERMUTATIONS, PairTest, compare_pairs, holm, mcnemar, permutation
from tandem.evaluation.figures.power import smallest_p
from tandem.evaluation.figures.statistics import Figure, mean_of, unseen
from tandem.evaluation.figures.summary import macro_f1


def p_of(a: np.ndarray, b: np.ndarray, seed: int = 0) -> float:
    return permutation([(mean_of(a), mean_of(b))], seed=seed)[0]


def compare(a: np.ndarray, b: np.ndarray, seed: int = 0) -> PairTest:
    (pair,) = compare_pairs({"a": mean_of(a), "b": mean_of(b)}, "f1", resamples=500, seed=seed)
    return pair


def labelled(truth: np.ndarray, given: np.ndarray, labels: int) -> Figure:
    kinds = np.eye(labels)
    right = kinds[truth] * (truth == given)[:, None]
    return Figure(np.stack([kinds[truth], kinds[given], right], axis=2).reshape(len(truth), -1), macro_f1)


@pytest.mark.parametrize(("only_a", "only_b", "both"), [(8, 1, 5), (3, 3, 2), (0, 5, 0), (12, 2, 40), (70, 45, 300)])
def test_mcnemar_is_the_exact_binomial_test_of_the_items_on_which_arms_differ(
    only_a: int, only_b: int, both: int
) -> None:
    a = np.array([1.0] * only_a + [0.0] * only_b + [1.0] * both)
    b = np.array([0.0] * only_a + [1.0] * only_b + [1.0] * both)
    n, k = only_a + only_b, min(only_a, only_b)
    by_hand = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar(a, b) == pytest.approx(by_hand)
    assert mcnemar(a, b) == pytest.approx(binomtest(only_a, n).pvalue)
    assert mcnemar(b, a) == pytest.approx(mcnemar(a, b))
    assert mcnemar(np.stack([a, b]), np.stack([b, b])) == pytest.approx([by_hand, 1.0])


def test_arms_that_agree_everywhere_do_not_differ() -> None:
    a = np.array([1.0, 0.0, 0.5])
    assert mcnemar(a, a) == 1.0
    assert p_of(a, a) == 1.0
    assert p_of(a, np.array([1.0, 0.0, 0.4])) == 1.0  # of one item, either sign is as likely


def test_the_permutation_test_is_exact_on_few_items() -> None:
    # All 2^5 signs of (.5, .4, .3, .2, .1): the observed sum and its mirror are the most extreme.
    assert p_of(np.array([0.5, 0.4, 0.3, 0.2, 0.1]), np.zeros(5)) == pytest.approx(2 / 32)


@pytest.mark.parametrize("digits", [1, 6])
def test_the_exact_test_is_scipys_ties_included(digits: int) -> None:
    rng = np.random.default_rng(1)
    a, b = np.round(rng.random((2, 12)), digits)
    a[3], a[7] = b[3], b[7]
    theirs = permutation_test((a, b), lambda x, y: x.mean() - y.mean(), permutation_type="samples", n_resamples=np.inf)
    assert p_of(a, b) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_the_random_test_is_scipys_within_what_chance_allows() -> None:
    rng = np.random.default_rng(2)
    b = rng.random(80)
    a = b + rng.normal(0.03, 0.15, 80)
    theirs = permutation_test(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        permutation_type="samples",
        n_resamples=50_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).pvalue
    assert 0.005 < theirs < 0.5
    assert p_of(a, b) == pytest.approx(theirs, abs=4 * (theirs * (1 - theirs) / PERMUTATIONS) ** 0.5)


def test_p_is_never_zero() -> None:
    assert p_of(np.ones(200), np.zeros(200)) == pytest.approx(1 / (PERMUTATIONS + 1))


def test_macro_f1_is_permuted_as_scipy_and_scikit_learn_would() -> None:
    rng = np.random.default_rng(6)
    truth = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    a, b = truth.copy(), truth.copy()
    a[[4]], b[[0, 3, 6, 7]] = 0, 2 - truth[[0, 3, 6, 7]]
    b[8] = rng.integers(0, 2)

    def apart(x: np.ndarray, y: np.ndarray) -> float:
        return float(f1_score(truth, x, average="macro") - f1_score(truth, y, average="macro"))

    theirs = permutation_test((a, b), apart, permutation_type="samples", n_resamples=np.inf)
    (ours,) = permutation([(labelled(truth, a, 3), labelled(truth, b, 3))], seed=0)
    assert 0.05 < theirs.pvalue < 0.9
    assert ours == pytest.approx(theirs.pvalue)


def test_a_pair_has_the_same_p_whoever_else_is_compared() -> None:
    rng = np.random.default_rng(3)
    a, b, c = (mean_of(rng.random(60)) for _ in range(3))
    assert permutation([(c, a), (a, b)], seed=1)[1] == permutation([(a, b)], seed=1)[0]
    assert permutation([(a, b)], seed=2) != permutation([(a, b)], seed=1)


def test_holm_by_hand_and_as_r_does_it() -> None:
    # Sorted: .01 × 4, .02 × 3, .03 × 2, .04 × 1, each at least the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_planted_difference_is_found_with_its_size() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.random(300) < 0.6).astype(float), (rng.random(300) < 0.3).astype(float)
    em = compare(a, b)
    assert em.test == "mcnemar"
    assert em.p_adjusted < 0.001
    assert em.ci95[0] < em.ci90[0] < 0.3 < em.ci90[1] < em.ci95[1]
    assert em.diff == pytest.approx(a.mean() - b.mean())
    assert (em.wins, em.losses) == ((a > b).sum(), (a < b).sum())
    assert em.spread == pytest.approx((a - b).std(ddof=1))
    assert em.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    f1 = compare(a * 0.9, b * 0.9)
    assert f1.test == "permutation"
    assert f1.p_adjusted < 0.001


def test_turning_a_pair_around_turns_signs_and_nothing_else() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(60), rng.random(60)
    one, other = compare(a, b), compare(b, a)
    assert (one.p, one.spread, one.detectable) == (other.p, other.spread, other.detectable)
    assert (one.wins, one.losses, one.diff) == (other.losses, other.wins, -other.diff)
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))


def test_right_in_some_seeds_only_makes_it_a_permutation_test_for_that_arm() -> None:
    rng = np.random.default_rng(5)
    base, rag = (rng.random(90) < 0.4).astype(float), (rng.random(90) < 0.5).astype(float)
    raft = rng.integers(0, 4, 90) / 3.0
    figures = {name: mean_of(values) for name, values in (("base", base), ("rag", rag), ("raft", raft))}
    tests = {(pair.a, pair.b): pair for pair in compare_pairs(figures, "em", resamples=200, seed=0)}
    assert {names: pair.test for names, pair in tests.items()} == {
        ("base", "rag"): "mcnemar",
        ("base", "raft"): "permutation",
        ("rag", "raft"): "permutation",
    }
    assert tests["base", "rag"].p == pytest.approx(binomtest(int((base > rag).sum()), int((base != rag).sum())).pvalue)
    adjusted = holm([pair.p for pair in tests.values()])
    assert [pair.p_adjusted for pair in tests.values()] == adjusted


def test_both_tests_agree_on_what_is_right_or_wrong() -> None:
    rng = np.random.default_rng(6)
    for _ in range(5):
        a, b = (rng.random((2, 40)) < 0.5).astype(float)
        exact = float(mcnemar(a, b))
        assert p_of(a, b) == pytest.approx(exact, abs=4 * (exact * (1 - exact) / PERMUTATIONS) ** 0.5 + 1e-3)


def test_arms_are_compared_on_the_items_for_which_both_have_a_value() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.random(40), rng.random(40)
    only = slice(10, 30)
    a[:10], b[30:] = np.nan, np.nan
    pair = compare(a, b)
    assert pair.n == 20
    assert pair.diff == pytest.approx(a[only].mean() - b[only].mean())
    assert pair.wins + pair.losses == 20
    assert pair.spread == pytest.approx((a - b)[only].std(ddof=1))
    theirs = p_of(a[only], b[only])
    assert pair.p == pytest.approx(theirs, abs=4 * (theirs * (1 - theirs) / PERMUTATIONS) ** 0.5 * 2**0.5)


def test_arms_without_an_item_in_common_are_not_compared() -> None:
    a, b, c = np.full((3, 6), np.nan)
    a[:3], b[3:], c[:] = 0.5, 0.5, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    figures = {"a": mean_of(a), "b": mean_of(b), "c": mean_of(c)}
    pairs = compare_pairs(figures, "f1", resamples=100, seed=0)
    assert [(pair.a, pair.b) for pair in pairs] == [("a", "c"), ("b", "c")]


def test_one_arm_alone_makes_no_pair() -> None:
    assert compare_pairs({"a": mean_of(np.ones(5))}, "em", resamples=100, seed=0) == []
    assert compare_pairs({}, "em", resamples=100, seed=0) == []


def test_a_single_item_shows_nothing() -> None:
    pair = compare(np.ones(1), np.zeros(1))
    assert (pair.p, pair.p_adjusted, pair.effect, pair.spread, pair.n) == (1.0, 1.0, None, 0.0, 1)
    assert pair.detectable == 1.0
    assert pair.ci95[0] < 0.0 < pair.ci95[1]


@pytest.mark.parametrize("value", [0.0, 1.0, 1 / 3])
def test_equal_arms_differ_by_no_more_than_so_many_items_can_rule_out(value: float) -> None:
    pair = compare(np.full(50, value), np.full(50, value))
    assert (pair.diff, pair.p, pair.effect, pair.spread) == (0.0, 1.0, None, 0.0)
    assert pair.ci95 == pytest.approx((-unseen(50, 0.025), unseen(50, 0.025)))
    assert pair.ci90 == pytest.approx((-unseen(50, 0.05), unseen(50, 0.05)))
    assert 0.0 < pair.detectable < 1.0


def test_a_constant_lead_has_no_effect_size_to_divide_by() -> None:
    pair = compare(np.full(50, 0.7), np.full(50, 0.3))
    assert pair.effect is None
    assert pair.p == pytest.approx(1 / (PERMUTATIONS + 1))


def test_labels_are_compared_by_macro_f1() -> None:
    rng = np.random.default_rng(8)
    truth = rng.integers(0, 3, 90)
    a = np.where(rng.random(90) < 0.85, truth, rng.integers(0, 3, 90))
    b = np.where(rng.random(90) < 0.4, truth, rng.integers(0, 3, 90))
    arms = {"a": labelled(truth, a, 3), "b": labelled(truth, b, 3)}
    (pair,) = compare_pairs(arms, "macro_f1", resamples=500, seed=0)
    wanted = f1_score(truth, a, average="macro") - f1_score(truth, b, average="macro")
    assert pair.diff == pytest.approx(wanted)
    assert pair.ci95[0] < wanted < pair.ci95[1]
    assert pair.p < 0.001
    assert (pair.wins, pair.losses) == (None, None)
    (same,) = compare_pairs({"a": arms["a"], "b": arms["a"]}, "macro_f1", resamples=500, seed=0)
    assert (same.p, same.diff, same.spread) == (1.0, 0.0, 0.0)
    # The same labels throughout are no proof that the arms are equal.
    assert same.ci90 == pytest.approx((-unseen(90, 0.05), unseen(90, 0.05)))


def test_the_smallest_p_is_reached_when_one_arm_alone_is_always_right() -> None:
    for items in (1, 4, 9):
        assert mcnemar(np.ones(items), np.zeros(items)) == pytest.approx(smallest_p(items))
        assert p_of(np.ones(items), np.zeros(items)) == pytest.approx(smallest_p(items))


def test_every_pair_of_arms_is_tested_bit_for_bit_the_same() -> None:
    rng = np.random.default_rng(9)
    figures = {name: mean_of(rng.random(70)) for name in "abcd"}
    once, again = (compare_pairs(figures, "f1", resamples=300, seed=4) for _ in range(2))
    assert once == again
    assert [(pair.a, pair.b) for pair in once] == list(combinations("abcd", 2))
