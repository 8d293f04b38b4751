from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import sacrebleu
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from tandem.evaluation.figures import statistics
from tandem.evaluation.figures.metrics import chrf_counts, corpus_bleu, corpus_chrf, sentence_bleu
from tandem.evaluation.figures.statistics import Figure, bootstrap, interval, mean_of, unseen
from tandem.evaluation.figures.summary import macro_f1


def ci(figure: Figure, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    return interval(figure, bootstrap([figure], resamples=resamples, seed=seed)[:, 0], level=level)


def samples() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    yield "shares", rng.random(60)
    yield "few right", (rng.random(200) < 0.04).astype(float)
    yield "mostly right", (rng.random(150) < 0.9).astype(float)
    yield "skewed", rng.beta(0.3, 2.0, 80)
    yield "thirds", rng.integers(0, 4, 90) / 3.0
    yield "differences", rng.integers(-1, 2, 100).astype(float)


@pytest.mark.parametrize(("name", "values"), list(samples()), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_of_a_mean_is_scipys_bca(name: str, values: np.ndarray, level: float) -> None:
    figure = mean_of(values, low=-1.0)
    resampled = bootstrap([figure], resamples=2000, seed=1)[:, 0]
    # scipy takes resamples that were drawn elsewhere, and so must come to the same two numbers.
    first = scipy_bootstrap((values,), np.mean, n_resamples=10, method="percentile", rng=0)
    first.bootstrap_distribution = resampled
    theirs = scipy_bootstrap(
        (figure.values,), np.mean, n_resamples=0, bootstrap_result=first, method="BCa", confidence_level=level
    ).confidence_interval
    # Where resamples equal the mean, scipy counts those as below that differ from it by a rounding error.
    near = 2e-3 if name == "thirds" else 1e-9
    assert interval(figure, resampled, level=level) == pytest.approx((theirs.low, theirs.high), abs=near)


def test_resamples_are_drawn_as_scipy_draws_them() -> None:
    values = np.random.default_rng(3).beta(0.5, 1.0, 70)
    theirs = scipy_bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0))
    low, high = ci(mean_of(values), resamples=20_000)
    width = high - low
    # Two times the Monte Carlo error of a 2.5 % quantile of so many resamples.
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert bootstrap([mean_of(values)], resamples=20_000, seed=0).std(ddof=1) == pytest.approx(
        theirs.standard_error, rel=0.03
    )


@pytest.mark.parametrize(("share", "items"), [(0.3, 80), (0.6, 142), (0.9, 120)])
def test_the_interval_covers_the_truth_as_often_as_it_says(share: float, items: int) -> None:
    rng = np.random.default_rng(7)
    trials, covered = 400, 0
    for trial in range(trials):
        low, high = ci(mean_of((rng.random(items) < share).astype(float)), resamples=400, seed=trial)
        covered += low <= share <= high
    # Four standard errors of a coverage of 0.95 over so many trials.
    assert abs(covered / trials - 0.95) < 4 * (0.95 * 0.05 / trials) ** 0.5


def test_the_interval_narrows_with_more_items() -> None:
    rng = np.random.default_rng(0)
    widths = [np.ptp(ci(mean_of(rng.random(items)), resamples=300)) for items in (50, 5000)]
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize("items", [1, 10, 100])
def test_equal_values_are_not_certainty(items: int) -> None:
    exact = binomtest(0, items).proportion_ci(method="exact")
    assert ci(mean_of(np.zeros(items)), resamples=100) == pytest.approx((0.0, exact.high))
    assert ci(mean_of(np.ones(items)), resamples=100) == pytest.approx((1.0 - exact.high, 1.0))
    assert ci(mean_of(np.zeros(items), low=-1.0), resamples=100) == pytest.approx((-exact.high, exact.high))
    low, high = ci(mean_of(np.full(items, 1 / 3)), resamples=100)
    assert (low, high) == pytest.approx((1 / 3 - exact.high / 3, 1 / 3 + exact.high * 2 / 3))


def test_a_figure_that_is_no_mean_is_not_certain_either() -> None:
    # Every text gets its label: macro-F1 is 1 in every resample, though labels differ.
    right = Figure(np.array([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]] * 10), macro_f1)
    assert ci(right) == pytest.approx((1.0 - unseen(20, 0.025), 1.0))
    never = Figure(np.array([sentence_bleu("", ["an answer"]).counts] * 20, dtype=float), corpus_bleu, high=100.0)
    assert ci(never) == pytest.approx((0.0, 100.0 * unseen(20, 0.025)))


def test_what_has_no_bound_and_never_varies_has_no_width() -> None:
    assert ci(mean_of(np.full(30, 7.0), high=float("inf"))) == (7.0, 7.0)


def test_items_without_a_value_are_left_out() -> None:
    values = np.array([0.2, np.nan, 0.9, 0.4, np.nan, 0.6])
    figure = mean_of(values)
    assert figure.value == pytest.approx(np.nanmean(values))
    low, high = ci(figure)
    assert 0.2 <= low < figure.value < high <= 0.9
    only = mean_of(np.array([np.nan] * 9 + [1.0]))
    assert only.value == 1.0
    # One item rules out hardly anything, however many have no value.
    assert ci(only) == pytest.approx((0.025, 1.0))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    figure = mean_of(np.random.default_rng(3).random(60))
    assert ci(figure, seed=5) == ci(figure, seed=5)
    assert ci(figure, seed=6) != ci(figure, seed=5)


def test_an_arm_has_the_same_interval_whoever_else_is_compared() -> None:
    rng = np.random.default_rng(8)
    one, *others = (mean_of(rng.random(50)) for _ in range(4))
    together = bootstrap([*others, one], resamples=300, seed=2)[:, -1]
    assert np.array_equal(together, bootstrap([one], resamples=300, seed=2)[:, 0])


def test_figures_depend_neither_on_threads_nor_on_the_order_of_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    values = rng.random((6, 3000))
    shuffled = rng.permutation(3000)
    for row in values:
        assert mean_of(row).value == mean_of(row[shuffled]).value == pytest.approx(row.mean(), abs=1e-12)
    found = []
    for threads, block in itertools.product((1, 2), (100_000, 2_000_000)):
        monkeypatch.setattr(statistics, "BLOCK", block)
        with threadpool_limits(threads):
            found.append(bootstrap([mean_of(row) for row in values], resamples=300, seed=0))
    assert all(np.array_equal(found[0], other) for other in found[1:])


SAID = ["the cat sat on the mat today", "a quick brown fox", "", "12 minutes", "one two three four five", "no"]
WANTED = [
    "the cat sat on a mat",
    "the quick brown fox jumps",
    "not answered",
    "12 minutes",
    "one two three four",
    "yes",
]


def test_resampled_sums_give_what_sacrebleu_gives_for_the_resampled_sentences() -> None:
    bleu = Figure(
        np.array([sentence_bleu(s, [w]).counts for s, w in zip(SAID, WANTED, strict=True)], float), corpus_bleu
    )
    chrf = Figure(np.array([chrf_counts(s, [w]) for s, w in zip(SAID, WANTED, strict=True)], float), corpus_chrf)
    # An item's place tells how often it was drawn: base 16 holds up to 15 of each.
    place = Figure(16.0 ** np.arange(len(SAID))[:, None], lambda sums: sums[:, 0])
    for score, other, drawn in bootstrap([bleu, chrf, place], resamples=40, seed=0):
        often = [int(drawn) >> 4 * at & 15 for at in range(len(SAID))]
        said = [text for text, times in zip(SAID, often, strict=True) for _ in range(times)]
        wanted = [text for text, times in zip(WANTED, often, strict=True) for _ in range(times)]
        assert len(said) == len(SAID)
        assert score == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score, abs=1e-9)
        assert other == pytest.approx(sacrebleu.corpus_chrf(said, [wanted]).score, abs=1e-9)


def test_resampled_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(4)
    truth, given = rng.integers(0, 4, 12), rng.integers(0, 5, 12)
    labels = np.eye(5)
    counts = np.stack([labels[truth], labels[given], labels[truth] * (truth == given)[:, None]], axis=2).reshape(12, -1)
    place = Figure(16.0 ** np.arange(12)[:, None], lambda sums: sums[:, 0])
    for score, drawn in bootstrap([Figure(counts, macro_f1), place], resamples=60, seed=0):
        rows = np.repeat(np.arange(12), [int(drawn) >> 4 * at & 15 for at in range(12)])
        # Labels that neither texts nor answers have are left out, as scikit-learn does.
        assert score == pytest.approx(f1_score(truth[rows], given[rows], average="macro", zero_division=0.0))


def test_the_interval_of_corpus_bleu_is_the_percentile_one() -> None:
    pairs = list(zip(SAID, WANTED, strict=True)) * 20
    figure = Figure(np.array([sentence_bleu(s, [w]).counts for s, w in pairs], float), corpus_bleu, high=100.0)
    resampled = bootstrap([figure], resamples=200, seed=0)[:, 0]
    low, high = interval(figure, resampled)
    assert (low, high) == tuple(np.quantile(resampled, (0.025, 0.975)))
    assert low < figure.value < high
