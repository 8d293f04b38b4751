"""What went wrong in an answer, told by rule from what is known of it, so that one can look for it and count it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tandem.data.containment import contains
from tandem.evaluation.figures.scoring import ScoredItem
from tandem.evaluation.figures.summary import RIGHT

FAILED, ABSTAINED, RAMBLING, CUT, PARTLY = "failed", "abstained", "rambling", "cut off", "partly right"
NOT_FOUND, NOT_THERE, NOT_USED, WRONG = "not retrieved", "not in the passages", "shown but not used", "wrong"
NEIGHBOURS, NOT_FOLLOWED = "neighbours misled", "neighbours not followed"

# The first that holds is what went wrong; the rest is read as: and none of those above.
SAYS = {
    FAILED: "there is no answer",
    ABSTAINED: "it says that it doesn't know, or nothing",
    RAMBLING: "a right answer stands inside a longer one",
    CUT: "it had no end at the limit of tokens",
    PARTLY: "half of the words or more are right: token F1 of 0.5 or above",
    NOT_USED: "a right answer stood in the passages shown",
    NOT_FOUND: "the gold document wasn't retrieved",
    NOT_THERE: "the passages shown hold no right answer",
    NEIGHBOURS: "most of the neighbours have another label",
    NOT_FOLLOWED: "half of the neighbours or more have the right label",
    WRONG: "none of these: nothing more is known",
}
PARTLY_FROM = 0.5
MOST = 0.5

Check = Callable[[ScoredItem], bool]
# A wrong answer to a question is told by the first of these that holds.
_OF_ANSWERS: tuple[tuple[str, Check], ...] = (
    (ABSTAINED, lambda item: bool(item.scores["abstained"])),
    (RAMBLING, lambda item: any(contains(item.prediction, answer) for answer in item.answers)),
    (CUT, lambda item: item.finish_reason == "length"),
    (PARTLY, lambda item: (item.scores["f1"] or 0.0) >= PARTLY_FROM),
    (NOT_USED, lambda item: bool(item.scores["answer_in_context"])),
    (NOT_FOUND, lambda item: item.scores["recall_at_k"] == 0.0),
    (NOT_THERE, lambda item: item.scores["answer_in_context"] is not None),
)
# So is a wrong label.
_OF_LABELS: tuple[tuple[str, Check], ...] = (
    (NOT_FOLLOWED, lambda item: (item.scores["neighbour_accuracy"] or 0.0) >= MOST),
    (NEIGHBOURS, lambda item: item.scores["neighbour_accuracy"] is not None),
)


def mistake(item: ScoredItem) -> str | None:
    """What went wrong, a key of `SAYS`; None for a right answer.

    Args:
        item: Of any arm; of one adapter.
    """
    if item.failure is not None:
        return FAILED
    labels = RIGHT["classification"] in item.scores
    if item.scores[RIGHT["classification" if labels else "generation"]] == 1.0:
        return None
    return next((label for label, holds in (_OF_LABELS if labels else _OF_ANSWERS) if holds(item)), WRONG)


def count_mistakes(items: Mapping[str, Sequence[ScoredItem]]) -> dict[str, dict[str, int]]:
    """How often each thing went wrong, by arm; only what did, in the order of `SAYS`.

    Args:
        items: By arm.
    """
    counts = {arm: Counter(mistake(item) for item in scored) for arm, scored in items.items()}
    table = {label: {arm: count[label] for arm, count in counts.items()} for label in SAYS}
    return {label: by_arm for label, by_arm in table.items() if any(by_arm.values())}
