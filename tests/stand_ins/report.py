"""A small report.json, complete, with figures that are easy to read."""

from __future__ import annotations

from typing import Any

METRICS = ("em", "f1", "bleu", "chrf", "rouge_l", "recall_at_k", "mrr", "answer_in_context", "grounded")


def arm(em: float, *, n: int = 4, candidate: bool = True, retrieves: bool = False, **changes: Any) -> dict[str, Any]:
    """An arm with this share of exact answers."""
    shares = dict.fromkeys(("em", "f1", "rouge_l"), em)
    found = dict.fromkeys(("recall_at_k", "mrr", "answer_in_context", "grounded"), 0.8 if retrieves else None)
    return {
        "n": n,
        "failures": 0,
        "candidate": candidate,
        "metrics": {**shares, "bleu": 12.345, "chrf": 20.0, **found, "abstained": 0.0, "words": 3.25},
        "ci95": {name: [max(0.0, em - 0.1), min(1.0, em + 0.1)] for name in shares},
        "seeds": None,
        "latency_ms": {"p50": 1234.4, "p95": None},
        "tokens": {"prompt": 400, "completion": 40, "completion_mean": 40 / n},
        "cost": {
            "train": 0.0,
            "per_1k": 0.5,
            "per_1k_with_training": 0.5,
            "per_correct": None,
            "cpu_s_per_1k": 100.0,
            "gpu_s_per_1k": 0.0,
        },
    } | changes


def pair(a: str, b: str, diff: float, p: float, *, n: int = 4, metric: str = "em", **changes: Any) -> dict[str, Any]:
    """A paired test; intervals of a tenth to both sides."""
    return {
        "a": a,
        "b": b,
        "metric": metric,
        "test": "mcnemar",
        "diff": diff,
        "ci95": [diff - 0.1, diff + 0.1],
        "ci90": [diff - 0.08, diff + 0.08],
        "p": p,
        "p_adjusted": p,
        "n": n,
        "wins": 3 if diff > 0 else 1,
        "losses": 1 if diff > 0 else 3,
        "effect": diff,
        "spread": 1.0,
        "detectable": 0.34,
    } | changes


def report(winner: str | None, *, n: int = 4, kind: str = "", p: float | None = None, **em: float) -> dict[str, Any]:
    """Arms with these shares of exact answers.

    Args:
        winner: The arm that wins, or None.
        n: Questions.
        kind: Of the verdict; left out: a winner where there is one, else not enough data.
        p: Of every pair; left out: 0.01 where there is a winner, else 0.5.
        em: By arm.
    """
    arms = {
        name: arm(value, n=n, candidate=name != "oracle", retrieves="rag" in name or name == "raft")
        for name, value in em.items()
    }
    names = [name for name in em if name != "oracle"]
    p = p if p is not None else 0.5 if winner is None else 0.01
    pairs = [pair(a, b, em[a] - em[b], p, n=n) for number, a in enumerate(names) for b in names[number + 1 :]]
    tied = [] if winner else sorted(names, key=lambda name: -em[name])
    kind = kind or ("winner" if winner else "not_enough_data")
    return {
        "schema": 1,
        "id": "c-1",
        "name": "c",
        "task": "generation",
        "created_at": "2026-11-20T08:00:00+00:00",
        "dataset": {
            "train": {},
            "eval": "eval.jsonl",
            "split_sha256": "ab" * 32,
            "n": n,
            "available": n,
            "quarantined": 0,
            "leaked": 0,
            "near_duplicates": None,
        },
        "arms": arms,
        "pairs": pairs,
        "break_even": [],
        "verdict": {
            "kind": kind,
            "winner": winner,
            "tied": tied,
            "cheapest": tied[-1] if tied else None,
            "choose": winner or (tied[-1] if kind == "tie" else None),
            "more_items": 3228 if kind == "not_enough_data" else None,
            "reason": "the reason",
            "metric": "em",
            "margin": 0.05,
            "rule": "the rule",
        },
        "top_k": 3,
        "slices": {},
        "notes": [],
        "lineage": {"seed": 0, "model": "m", "prices": {"questions": 10_000}, "versions": {"python": "3.11.7"}},
    }


def sliced(data: dict[str, Any], column: str, **values: tuple[int, dict[str, float]]) -> dict[str, Any]:
    """A report with a column: by value its questions, and each arm's share of exact answers on them."""
    data["slices"][column] = {
        value: {
            name: {"n": n, "metrics": {"em": em, "f1": em}, "ci95": {"em": [em, em], "f1": [em, em]}}
            for name, em in by_arm.items()
        }
        for value, (n, by_arm) in values.items()
    }
    return data
