"""What the page's item by item view is made of: a bounded number of questions, with passages that are there once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tandem.evaluation.asking.arms import Passage
from tandem.evaluation.figures.scoring import ScoredItem
from tandem.evaluation.figures.slices import Slices
from tandem.evaluation.figures.summary import RIGHT
from tandem.evaluation.report import mistakes

# A page with more would be slow to open; all of them are in items.parquet.
ITEMS_SHOWN = 2000


class Passages:
    """Passages by number: those that several questions or arms were shown are kept once."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self.texts: list[tuple[str, str, str]] = []

    def add(self, found: Sequence[Passage]) -> list[tuple[int, float]]:
        """The numbers of some passages, each with its score."""
        return [(self._number(passage), round(passage.score, 4)) for passage in found]

    def _number(self, passage: Passage) -> int:
        key = (passage.id, passage.source)
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append((passage.source, passage.section, passage.text))
        return self._numbers[key]


def page_data(
    items: Mapping[str, Sequence[ScoredItem]], arms: Sequence[str], slices: Slices, *, shown: int
) -> dict[str, Any]:
    """What the page's script reads.

    Args:
        items: Scored items by arm, in the same order in each.
        arms: As ranked.
        slices: By column and question id, the value by which a question is counted.
        shown: Questions at most, the first ones.

    Returns:
        ``{"arms", "columns", "labels", "found", "passages": [[source, section, text]], "items": [{"id", "question",
        "answers", "source", "slices", "recall", "contexts": {kind: [[passage, score]]}, "arms": {arm: answer}}]}``.
    """
    passages = Passages()
    classifies = any(RIGHT["classification"] in items[arm][0].scores for arm in arms)
    rows = []
    for each in list(zip(*(items[arm] for arm in arms), strict=True))[:shown]:
        first, by_arm = each[0], dict(zip(arms, each, strict=True))
        recalls = [item.scores["recall_at_k"] for item in each if item.scores.get("recall_at_k") is not None]
        contexts: dict[str, Any] = {}
        for arm, item in by_arm.items():
            kind = "gold" if arm == "oracle" else "retrieved"
            if item.passages and kind not in contexts:  # arms that retrieve are shown the same
                contexts[kind] = passages.add(item.passages)
        rows.append(
            {
                "id": first.id,
                "question": first.question,
                "answers": first.answers,
                "source": first.source,
                "slices": {column: values[first.id] for column, values in slices.items()},
                "recall": recalls[0] if recalls else None,
                "contexts": contexts,
                "arms": {arm: _answer(item) for arm, item in by_arm.items()},
            }
        )
    return {
        "arms": list(arms),
        "columns": list(slices),
        "labels": mistakes.SAYS,
        "found": "neighbours" if classifies else "passages",
        "passages": passages.texts,
        "items": rows,
    }


def _answer(item: ScoredItem) -> dict[str, Any]:
    right = RIGHT["classification" if "accuracy" in item.scores else "generation"]
    f1 = item.scores.get("f1")
    return {
        "text": item.prediction,
        "failure": item.failure,
        "right": item.scores[right] == 1.0,
        "f1": None if f1 is None else round(f1, 3),
        "wrong": mistakes.mistake(item),
        "cut": item.finish_reason == "length",
        "shown": item.shown,
        "words": len(item.prediction.split()),
        "ms": None if item.latency_ms is None else round(item.latency_ms),
    }


def script_json(data: Any) -> str:
    """Data as JSON that can stand inside a ``<script>``, where HTML knows no entities: without a single ``<``."""
    raw = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)
    for character in "<>&\u2028\u2029":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return raw
