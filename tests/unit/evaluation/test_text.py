from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tandem.evaluation import text


def arm(em: float, *, candidate: bool = True) -> dict[str, Any]:
    return {
        "n": 80,
        "failures": 1,
        "candidate": candidate,
        "metrics": {"em": em, "f1": em, "bleu": 12.345, "rouge_l": em, "recall_at_k": None},
        "ci95": {"em": [em - 0.1, em + 0.1], "f1": [em - 0.1, em + 0.1]},
        "latency_ms": {"p50": 1234.4, "p95": None},
        "cost": {"train": 0.0, "per_1k": 0.00067, "per_correct": None},
    }


def report(winner: str | None, tied: list[str], p: float, reason: str = "no significant difference") -> dict[str, Any]:
    return {
        "name": "small",
        "dataset": {"n": 80, "eval": "eval.jsonl", "split_sha256": "0" * 64},
        "arms": {"base": arm(0.1), "oracle": arm(0.9, candidate=False), "raft": arm(0.6)},
        "pairs": [
            {"a": "base", "b": "raft", "metric": "em", "diff": -0.5, "ci95": [-0.6, -0.4],
             "p": p, "p_adjusted": p, "n": 80},
        ],
        "verdict": {
            "winner": winner, "tied": tied, "cheapest": tied[-1] if tied else None, "reason": reason, "metric": "em",
            "rule": "the rule",
        },
        "slices": {"a|b": {"<x>": {name: {"n": 80, "metrics": {"em": 0.5}} for name in ("base", "oracle", "raft")}}},
        "notes": ["1 | 2"],
        "lineage": {"seed": 0},
    }  # fmt: skip


def test_the_best_arm_stands_first_and_the_ceiling_last() -> None:
    rows = text.summary_rows(report("raft", [], 0.0001))
    assert [row[0] for row in rows] == ["raft", "base", "oracle (ceiling)"]
    assert all(len(row) == len(text.SUMMARY_HEADER) for row in rows)
    assert rows[0] == ["raft", "0.60", "0.50 to 0.70", "0.60", "12.3", "0.60", "–", "1,234", "–", "0.00067", "1 of 80"]


def test_a_pair_is_told_from_the_better_arm() -> None:
    (row,) = text.pair_rows(report("raft", [], 0.0001))
    assert row == ["raft − base", "EM", "+0.50", "+0.40 to +0.60", "p < 0.001", "p < 0.001", "raft is better"]
    (row,) = text.pair_rows(report(None, ["raft", "base"], 0.3))
    assert row[-1] == "no significant difference"


@pytest.mark.parametrize(
    ("winner", "tied", "reason", "sentence"),
    [
        (
            "raft",
            [],
            "",
            "raft wins: it answers 60 % of 80 questions exactly right (95 % interval 50 % to 70 %), "
            "50 points more than base, the next best.",
        ),
        (
            None,
            ["raft", "base"],
            "",
            "No clear winner: 80 questions can't tell raft and base apart (exactly right: raft 60 % and base 10 %). "
            "Of these, base costs least.",
        ),
        (None, ["raft", "base"], "not enough data: few", "No winner: not enough data: few."),
        (None, [], "nothing to compare", "No winner: nothing to compare."),
    ],
)
def test_the_verdict_in_a_sentence(winner: str | None, tied: list[str], reason: str, sentence: str) -> None:
    assert text.verdict_sentence(report(winner, tied, 0.01, reason)) == sentence


def test_how_sure_one_may_be() -> None:
    assert "fewer than 1 of 1,000" in text.sureness(report("raft", [], 0.0002))
    assert "about 31 of 1,000" in text.sureness(report("raft", [], 0.031))
    assert "may be chance (p = 0.300" in text.sureness(report(None, ["raft", "base"], 0.3))


def test_markdown_tables_survive_any_name() -> None:
    page = text.markdown(report("raft", [], 0.0001))
    assert "| \\<x\\> | 80 |" in page
    assert "## EM by a\\|b" in page
    assert "- 1 \\| 2" in page


@pytest.mark.parametrize(
    ("value", "said"), [(None, "–"), (0.0, "0.00"), (1234.5, "1,234.50"), (0.012, "0.012"), (0.0000123, "0.000012")]
)
def test_prices(value: float | None, said: str) -> None:
    assert text.money(value) == said


def test_the_terminal_needs_nothing_heavy() -> None:
    heavy = "'torch', 'ray', 'scipy', 'numpy', 'matplotlib', 'mlflow', 'pandas', 'transformers', 'vllm'"
    code = f"import sys, tandem.evaluation.text; print([m for m in ({heavy}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
