"""A small report.json, with what is printed of one."""

from __future__ import annotations

from typing import Any


def report(winner: str | None, **em: float) -> dict[str, Any]:
    """Arms with these shares of exact answers on four questions."""
    arms = {
        name: {
            "n": 4,
            "failures": 0,
            "candidate": True,
            "metrics": {"em": value, "f1": value, "bleu": 1.0, "rouge_l": value, "recall_at_k": None},
            "ci95": {"em": [0.0, 1.0]},
            "latency_ms": {"p50": 12.3, "p95": 20.0},
            "cost": {"train": 0.0, "per_1k": 0.5, "per_correct": 0.1},
        }
        for name, value in em.items()
    }
    names = list(em)
    pairs = [
        {"a": a, "b": b, "metric": "em", "p_adjusted": 0.5 if winner is None else 0.01}
        for number, a in enumerate(names)
        for b in names[number + 1 :]
    ]
    tied = [] if winner else sorted(names, key=lambda name: -em[name])
    verdict = {"winner": winner, "tied": tied, "cheapest": names[0], "metric": "em", "reason": "", "rule": ""}
    return {
        "schema": 1,
        "id": "c-1",
        "name": "c",
        "dataset": {"n": 4},
        "arms": arms,
        "pairs": pairs,
        "verdict": verdict,
    }
