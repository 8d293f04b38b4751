from __future__ import annotations

import subprocess
import sys

import pytest
from stand_ins.report import report

from tandem.evaluation.report import text


def test_the_best_arm_stands_first_and_the_ceiling_last() -> None:
    assert text.ranked(report("raft", base=0.1, oracle=0.9, raft=0.6)) == ["raft", "base", "oracle"]


@pytest.mark.parametrize(
    ("winner", "kind", "sentence"),
    [
        (
            "raft",
            "winner",
            "raft wins: it answers 60 % of 80 questions exactly right (95 % interval 50 % to 70 %), "
            "50 points more than base, the next best.",
        ),
        (
            None,
            "not_enough_data",
            "No clear winner: 80 questions can't tell raft and base apart (exactly right: raft 60 % and base 10 %). "
            "About 3,300 more would settle it.",
        ),
        (
            None,
            "tie",
            "A tie: raft and base are equally good on 80 questions (exactly right: raft 60 % and base 10 %). "
            "base costs least.",
        ),
        (None, "no_contest", "No winner: the reason."),
    ],
)
def test_the_verdict_in_a_sentence(winner: str | None, kind: str, sentence: str) -> None:
    assert text.verdict_sentence(report(winner, n=80, kind=kind, base=0.1, oracle=0.9, raft=0.6)) == sentence


def test_of_many_questions_shares_have_a_decimal() -> None:
    said = text.verdict_sentence(report("raft", n=10_000, base=0.617, raft=0.624))
    assert "answers 62.4 % of 10,000 questions" in said
    assert "0.7 points more than base" in said


@pytest.mark.parametrize(
    ("winner", "kind", "p", "choose", "sure", "why"),
    [
        ("raft", "winner", 0.0002, "Choose raft", "very sure", "fewer than 1 of 1,000"),
        ("raft", "winner", 0.004, "Choose raft", "sure", "about 4 of 1,000"),
        ("raft", "winner", 0.031, "Choose raft", "fairly sure", "about 31 of 1,000"),
        (None, "tie", 0.8, "Choose base: none is better, and it costs least", "sure that quality doesn't decide",
         "less than 5 points is shown with 95 % confidence"),
        (None, "not_enough_data", 0.3, "Not enough data to choose", "not sure", "may be chance (p = 0.300"),
        (None, "no_contest", 0.3, "Nothing to choose from", "no answer", "Look at the answers"),
    ],
)  # fmt: skip
def test_which_arm_to_choose_and_how_sure_one_may_be(
    winner: str | None, kind: str, p: float, choose: str, sure: str, why: str
) -> None:
    data = report(winner, kind=kind, p=p, base=0.1, raft=0.6)
    assert text.headline(data) == choose
    assert text.how_sure(data) == sure
    assert why in text.sureness(data)


def test_for_what_the_verdict_holds() -> None:
    data = report("rag", base=0.1, rag=0.6)
    assert text.scope(data).endswith("these settings.")
    data["arms"]["raft"] = data["arms"]["rag"] | {"cost": data["arms"]["rag"]["cost"] | {"train": 3.0}}
    assert "training again, with another seed" in text.scope(data)
    data["arms"]["raft"] |= {"seeds": {"n": 3, "sd": {}, "range": {}}}
    assert "trained 3 times" in text.scope(data)


def test_classification_is_told_in_its_own_words() -> None:
    data = report("tuned", n=80, base=0.1, tuned=0.6)
    data["task"], data["verdict"]["metric"] = "classification", "accuracy"
    for arm in data["arms"].values():
        arm["metrics"] = {"accuracy": arm["metrics"]["em"]}
        arm["ci95"] = {"accuracy": arm["ci95"]["em"]}
    data["pairs"][0]["metric"] = "accuracy"
    assert text.verdict_sentence(data).startswith("tuned wins: it gets 60 % of 80 texts right")
    assert text.meaning(data)["tuned"] == "a classifier trained on the labelled texts"
    assert "texts like these" in text.scope(data)


@pytest.mark.parametrize(
    ("value", "said"), [(None, "–"), (0.0, "0.00"), (1234.5, "1,234.50"), (0.012, "0.012"), (0.0000123, "0.000012")]
)
def test_prices(value: float | None, said: str) -> None:
    assert text.money(value) == said


@pytest.mark.parametrize(("value", "said"), [(0.5, "+0.50"), (-0.123, "−0.12"), (-0.001, "0.00"), (0.0, "0.00")])
def test_differences_have_a_sign_unless_they_are_none(value: float, said: str) -> None:
    assert text.signed_number(value) == said


@pytest.mark.parametrize("module", ["text", "tables", "explain", "markdown"])
def test_the_terminal_needs_nothing_heavy(module: str) -> None:
    heavy = "'torch', 'ray', 'scipy', 'numpy', 'matplotlib', 'mlflow', 'pandas', 'transformers', 'vllm'"
    code = f"import sys, tandem.evaluation.report.{module}; print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
