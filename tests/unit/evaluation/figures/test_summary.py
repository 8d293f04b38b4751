from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import accuracy_score, f1_score
from stand_ins.comparisons import report_of, simulate

from tandem.data.rows import QaRow
from tandem.evaluation.asking.arms import Arm, Passage, arms_of
from tandem.evaluation.asking.items import Answer
from tandem.evaluation.figures import summary
from tandem.evaluation.figures.costs import Machine
from tandem.evaluation.figures.measures import BY_NAME, BY_TASK
from tandem.evaluation.figures.scoring import ScoredItem, score
from tandem.evaluation.figures.slices import GOLD_RETRIEVED
from tandem.evaluation.schema import ArmReport
from tandem.specs.compare import DECIDES, CompareSpec

MACHINE = Machine(2.0, 0.0)
WORDS = ["ten seconds", "the cache", "a file", "DEBUG", "never"]


def spec_of(*arms: str, **changes: Any) -> CompareSpec:
    values: dict[str, Any] = {"kind": "compare", "name": "small", "model": "/model", "arms": list(arms)}
    values |= {"eval": "eval.jsonl", "collection": "docs", "adapter": "/tuned", "raft_adapter": "/raft"}
    return CompareSpec(**(values | {"bootstrap": 200} | changes))


def rows_of(count: int) -> list[QaRow]:
    return [QaRow(f"q{n}", f"What is number {n}?", (WORDS[n % len(WORDS)],), f"doc{n}.txt") for n in range(count)]


def asked(arm: Arm, row: QaRow, said: str | None, *, found: bool = True, seed: int = 0) -> ScoredItem:
    """An answer; None for a question that failed."""
    passages = [Passage(f"p-{row.id}", row.source or "" if found else "other.txt", "", 1.0, f"It is {row.answers[0]}.")]
    failure = None if said is not None else "out of memory"
    ms = None if said is None else 10.0
    answer = Answer(row.id, "", said or "", failure, 1, 20, 3, "stop", ms, 0.5)
    return score(arm, row, answer, passages if arm.context != "none" else (), 0.1, seed=seed)


def runs_of(
    spec: CompareSpec, skills: dict[str, Sequence[float]], items: int = 60
) -> dict[str, list[list[ScoredItem]]]:
    """Each arm right on so large a share of the items, for each of its adapters; questions are as hard for all."""
    rng, rows = np.random.default_rng(0), rows_of(items)
    hard = rng.random(items)
    return {
        arm.name: [
            [
                asked(arm, row, row.answers[0] if hard[at] < skill else "I think it is 7", found=at % 3 > 0, seed=seed)
                for at, row in enumerate(rows)
            ]
            for seed, skill in enumerate(skills[arm.name])
        ]
        for arm in arms_of(spec)
    }


def arms_in(spec: CompareSpec, runs: summary.Runs) -> dict[str, ArmReport]:
    return summary.summarize_arms(arms_of(spec), runs, spec, MACHINE, dict.fromkeys(spec.arms, 0.0))


def test_an_arms_figures_are_those_of_its_items() -> None:
    spec = spec_of("base", "rag")
    runs = runs_of(spec, {"base": [0.2], "rag": [0.7]})
    arms = arms_in(spec, runs)
    for name, report in arms.items():
        (items,) = runs[name]
        assert report.n == 60
        assert report.metrics["em"] == np.mean([item.scores["em"] for item in items])
        assert report.metrics["f1"] == pytest.approx(np.mean([item.scores["f1"] for item in items]), abs=1e-12)
        said, wanted = [item.prediction for item in items], [item.answers[0] for item in items]
        assert report.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score, abs=1e-9)
        assert report.metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [wanted]).score, abs=1e-9)
        for metric, (low, high) in report.ci95.items():
            assert low <= report.metrics[metric] <= high, metric
    assert arms["rag"].metrics["recall_at_k"] == arms["rag"].metrics["mrr"] == 40 / 60
    # Half a second to answer, and 0.1 to retrieve: two cores.
    assert arms["base"].cost.cpu_s_per_1k == pytest.approx(1000.0)
    assert arms["rag"].cost.cpu_s_per_1k == pytest.approx(1200.0)
    assert arms["rag"].latency_ms.p50 == pytest.approx(110.0)


def test_what_is_not_defined_for_an_arm_has_neither_figure_nor_interval() -> None:
    spec = spec_of("base", "rag")
    arms = arms_in(spec, runs_of(spec, {"base": [0.2], "rag": [0.7]}))
    for metric in ("recall_at_k", "mrr", "answer_in_context", "grounded"):
        assert arms["base"].metrics[metric] is None
        assert metric not in arms["base"].ci95
        assert metric in arms["rag"].ci95
    assert set(arms["base"].metrics) == {measure.name for measure in BY_TASK["generation"]}


def test_an_arm_that_crashes_on_some_items_is_wrong_there_and_not_left_out() -> None:
    spec = spec_of("base", "rag")
    runs = runs_of(spec, {"base": [0.5], "rag": [1.0]}, items=40)
    arm = arms_of(spec)[1]
    runs["rag"][0][:10] = [asked(arm, row, None) for row in rows_of(40)[:10]]
    arms = arms_in(spec, runs)
    assert (arms["rag"].n, arms["rag"].failures) == (40, 10)
    assert arms["rag"].metrics["em"] == arms["rag"].metrics["f1"] == 0.75
    assert arms["rag"].metrics["bleu"] < 100.0
    assert arms["rag"].metrics["abstained"] == 0.0  # a crash says nothing
    assert arms["rag"].latency_ms.p50 is not None
    pairs = summary.summarize_pairs(arms_of(spec), runs, spec)
    assert all(pair.n == 40 for pair in pairs)
    assert "rag: 10 of 40 questions failed, which counts as wrong." in summary.notes(runs, spec, 0)


def test_an_arm_of_which_nothing_came_back_is_still_an_arm() -> None:
    spec = spec_of("base", "rag")
    runs = runs_of(spec, {"base": [0.5], "rag": [1.0]}, items=20)
    runs["rag"][0][:] = [asked(arms_of(spec)[1], row, None) for row in rows_of(20)]
    arms = arms_in(spec, runs)
    assert arms["rag"].metrics["em"] == arms["rag"].metrics["bleu"] == 0.0
    assert arms["rag"].metrics["words"] is None
    assert (arms["rag"].latency_ms.p50, arms["rag"].cost.per_correct) == (None, None)
    verdict = summary.judge(arms, summary.summarize_pairs(arms_of(spec), runs, spec), spec)
    assert verdict.winner == "base"


def test_several_seeds_are_averaged_by_item_and_their_spread_is_told_apart() -> None:
    spec = spec_of("base", "raft")
    runs = runs_of(spec, {"base": [0.3], "raft": [0.8, 0.6, 0.7]})
    arms = arms_in(spec, runs)
    each = [np.mean([item.scores["em"] for item in items]) for items in runs["raft"]]
    assert arms["raft"].metrics["em"] == pytest.approx(np.mean(each))
    assert arms["raft"].seeds is not None
    assert arms["raft"].seeds.n == 3
    assert arms["raft"].seeds.sd["em"] == pytest.approx(np.std(each, ddof=1))
    assert arms["raft"].seeds.range["em"] == pytest.approx((min(each), max(each)))
    assert arms["base"].seeds is None
    pairs = summary.summarize_pairs(arms_of(spec), runs, spec)
    assert [(pair.metric, pair.test, pair.n) for pair in pairs] == [
        ("em", "permutation", 60),
        ("f1", "permutation", 60),
    ]


def test_only_candidates_are_tested_and_the_primary_metric_comes_first() -> None:
    spec = spec_of("base", "rag", "oracle", primary="f1")
    runs = runs_of(spec, {"base": [0.2], "rag": [0.6], "oracle": [0.95]})
    pairs = summary.summarize_pairs(arms_of(spec), runs, spec)
    assert [(pair.a, pair.b, pair.metric) for pair in pairs] == [("base", "rag", "f1"), ("base", "rag", "em")]
    verdict = summary.judge(arms_in(spec, runs), pairs, spec)
    assert (verdict.kind, verdict.winner, verdict.metric) == ("winner", "rag", "f1")


def test_the_ceiling_alone_is_no_contest() -> None:
    spec = spec_of("oracle")
    runs = runs_of(spec, {"oracle": [0.9]})
    assert summary.summarize_pairs(arms_of(spec), runs, spec) == []
    assert summary.judge(arms_in(spec, runs), [], spec).kind == "no_contest"


def test_in_a_tie_an_arm_whose_training_costs_nobody_knows_is_not_preferred() -> None:
    spec = spec_of("rag", "tuned", margin=0.2)
    runs = runs_of(spec, {"rag": [0.5], "tuned": [0.5]})
    pairs = summary.summarize_pairs(arms_of(spec), runs, spec)
    chosen = {
        train: summary.judge(
            summary.summarize_arms(arms_of(spec), runs, spec, MACHINE, {"rag": 0.0, "tuned": train}), pairs, spec
        ).choose
        for train in (0.0, 1000.0, None)
    }
    assert chosen == {0.0: "tuned", 1000.0: "rag", None: "rag"}


def test_a_single_question_gives_a_report_that_claims_nothing() -> None:
    spec = spec_of("base", "rag")
    runs = runs_of(spec, {"base": [0.0], "rag": [1.0]}, items=1)
    arms, pairs = arms_in(spec, runs), summary.summarize_pairs(arms_of(spec), runs, spec)
    assert arms["rag"].ci95["em"] == pytest.approx((0.025, 1.0))
    verdict = summary.judge(arms, pairs, spec)
    assert (verdict.kind, verdict.winner, verdict.more_items) == ("not_enough_data", None, 5)


def test_the_same_items_and_seed_give_the_same_figures_bit_for_bit() -> None:
    spec = spec_of("base", "rag", "raft")
    runs = runs_of(spec, {"base": [0.2], "rag": [0.5], "raft": [0.6, 0.7]})

    def figures(chosen: CompareSpec) -> Any:
        return arms_in(chosen, runs), summary.summarize_pairs(arms_of(chosen), runs, chosen)

    assert figures(spec) == figures(spec)
    other = figures(spec_of("base", "rag", "raft", seed=1))
    assert other[0]["rag"].metrics == figures(spec)[0]["rag"].metrics
    assert other[0]["rag"].ci95 != figures(spec)[0]["rag"].ci95
    # Who else was asked changes nothing of an arm.
    alone = spec_of("rag")
    assert arms_in(alone, {"rag": runs["rag"]})["rag"] == figures(spec)[0]["rag"]


def test_slices_split_the_same_items() -> None:
    spec = spec_of("base", "rag")
    runs = runs_of(spec, {"base": [0.2], "rag": [0.7]})
    kinds = {f"q{n}": "first" if n < 15 else "rest" for n in range(60)}
    slices = summary.summarize_slices(runs, {"kind": kinds}, spec)
    assert list(slices["kind"]) == ["first", "rest"]
    first = slices["kind"]["first"]["rag"]
    assert first.n == 15
    assert first.metrics["em"] == np.mean([item.scores["em"] for item in runs["rag"][0][:15]])
    assert set(first.metrics) == {"em", "f1", "recall_at_k"}
    assert slices["kind"]["rest"]["base"].metrics["recall_at_k"] is None
    low, high = slices["kind"]["rest"]["rag"].ci95["em"]
    assert low < slices["kind"]["rest"]["rag"].metrics["em"] < high


def test_notes_say_what_to_know_before_believing_the_figures() -> None:
    spec = spec_of("base", "rag", max_tokens=5)
    runs = runs_of(spec, {"base": [0.2], "rag": [0.7]}, items=10)
    assert summary.notes(runs, spec, 0) == []
    runs["base"][0][:2] = [replace(item, finish_reason="length") for item in runs["base"][0][:2]]
    runs["rag"][0][0] = replace(runs["rag"][0][0], shown=0)
    assert summary.notes(runs, spec, 3) == [
        "3 rows of eval.jsonl couldn't be used and were left out.",
        "base: 2 of 10 answers were cut off at 5 tokens.",
        "rag: passages were left out of 1 prompts that would have been too long.",
    ]


LABELS = ["sport", "tech", "news"]


def told(name: str, truth: Sequence[int], given: Sequence[int]) -> list[ScoredItem]:
    """A classifier's answers, with what each adds to the counts of its labels."""
    kinds = np.eye(len(LABELS))
    template = asked(Arm(name, None, "none"), rows_of(1)[0], "x")
    return [
        replace(
            template,
            id=f"t{at}",
            answers=(LABELS[right],),
            prediction=LABELS[label],
            scores={"accuracy": float(right == label), "neighbour_accuracy": None},
            counts={
                "macro_f1": tuple(np.stack([kinds[right], kinds[label], kinds[right] * (right == label)], 1).ravel())
            },
        )
        for at, (right, label) in enumerate(zip(truth, given, strict=True))
    ]


def test_labels_are_scored_as_scikit_learn_scores_them() -> None:
    rng = np.random.default_rng(1)
    truth = rng.choice(3, 80, p=[0.6, 0.3, 0.1])
    spec = CompareSpec(kind="compare", name="labels", task="classification", model="/model", arms=("base", "rag"),
                       train="/rows.jsonl", bootstrap=200)  # fmt: skip
    given = {
        name: np.where(rng.random(80) < skill, truth, rng.integers(0, 3, 80))
        for name, skill in (("base", 0.3), ("rag", 0.9))
    }
    runs = {name: [told(name, truth.tolist(), labels.tolist())] for name, labels in given.items()}
    arms = arms_in(spec, runs)
    for name, labels in given.items():
        assert arms[name].metrics["accuracy"] == pytest.approx(accuracy_score(truth, labels))
        assert arms[name].metrics["macro_f1"] == pytest.approx(f1_score(truth, labels, average="macro"))
        low, high = arms[name].ci95["macro_f1"]
        assert low < arms[name].metrics["macro_f1"] < high
        assert arms[name].metrics["neighbour_accuracy"] is None
    pairs = summary.summarize_pairs(arms_of(spec), runs, spec)
    assert [(pair.metric, pair.test) for pair in pairs] == [("accuracy", "mcnemar"), ("macro_f1", "permutation")]
    assert summary.judge(arms, pairs, spec).winner == "rag"
    by_label = {f"t{at}": LABELS[right] for at, right in enumerate(truth)}
    sliced = summary.summarize_slices(runs, {"label": by_label}, spec)["label"]["tech"]["rag"]
    only = truth == 1
    assert sliced.metrics["accuracy"] == pytest.approx(accuracy_score(truth[only], given["rag"][only]))
    wanted = f1_score(truth[only], given["rag"][only], average="macro", zero_division=0.0)
    assert sliced.metrics["macro_f1"] == pytest.approx(wanted)


def classes_spec(**changes: Any) -> CompareSpec:
    values: dict[str, Any] = {"kind": "compare", "name": "labels", "task": "classification", "model": "/model"}
    values |= {"arms": ("base", "tuned"), "train": "/rows.jsonl", "classifier": "/head", "bootstrap": 200}
    return CompareSpec(**(values | changes))


def test_an_arm_of_several_classifiers_is_permuted_as_whole_items_of_equal_weight() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    base, one, other = (truth.copy() for _ in range(3))
    base[[0, 3, 6, 7]] = 2 - truth[[0, 3, 6, 7]]
    one[[1, 4, 8]], other[[1, 2, 8]] = 1, [2, 1, 0]
    tuned = np.stack([one, other])

    def apart(swapped: np.ndarray) -> float:
        a, b = np.where(swapped, tuned, base), np.where(swapped, base, tuned)
        f1 = [f1_score(np.tile(truth, 2), given.ravel(), average="macro") for given in (a, b)]
        return float(abs(f1[0] - f1[1]))

    differ = np.flatnonzero((tuned != base).any(axis=0))
    ways = np.zeros((2 ** len(differ), len(truth)), dtype=bool)
    ways[:, differ] = list(product([False, True], repeat=len(differ)))
    wanted = np.mean([apart(swapped) >= apart(ways[0]) - 1e-9 for swapped in ways])
    assert 0.05 < wanted < 1.0
    spec = classes_spec(classifier=["/one", "/other"], primary="macro_f1")
    runs = {
        "base": [told("base", truth.tolist(), base.tolist())],
        "tuned": [told("tuned", truth.tolist(), given.tolist()) for given in tuned],
    }
    pair = summary.summarize_pairs(arms_of(spec), runs, spec)[0]
    assert (pair.metric, pair.p) == ("macro_f1", pytest.approx(wanted))


def test_classifiers_that_answer_alike_are_tested_as_one_of_them() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 60)
    base, tuned = (np.where(rng.random(60) < 0.5, truth, rng.integers(0, 3, 60)).tolist() for _ in range(2))
    found = []
    for many in (1, 3):
        runs = {"base": [told("base", truth.tolist(), base)], "tuned": [told("tuned", truth.tolist(), tuned)] * many}
        spec = classes_spec(classifier=[f"/{seed}" for seed in range(many)])
        found.append(summary.summarize_pairs(arms_of(spec), runs, spec))
    assert found[0] == found[1]


@pytest.mark.parametrize("metric", DECIDES["generation"])
def test_any_of_them_may_decide(metric: str) -> None:
    _, data = report_of(simulate(60, primary=metric, skill={"raft": (0.98, 0.98, 0.0), "tuned_rag": (0.3, 0.1, 0.1)}))
    verdict = data["verdict"]
    whole = BY_NAME[metric].high
    assert (verdict["metric"], verdict["margin"]) == (metric, pytest.approx(0.05 * whole))
    assert verdict["winner"] == "raft"
    # The primary metric's pairs come first, each with the difference of the arms' figures, in its units.
    first = data["pairs"][: 5 * 4 // 2]
    assert {pair["metric"] for pair in first} == {metric}
    for pair in first:
        a, b = (data["arms"][pair[side]]["metrics"][metric] for side in ("a", "b"))
        assert pair["diff"] == pytest.approx(a - b)
        assert pair["ci95"][0] <= pair["diff"] <= pair["ci95"][1]
    assert metric in data["slices"][GOLD_RETRIEVED]["yes"]["raft"]["metrics"]
