"""Retrieval-augmented fine-tuning (RAFT: Zhang et al., arXiv 2403.10131): train on prompts as they will be served.

A sample's context is the gold passage among distractors; a share of the samples has no gold, so that the model also
learns the answers themselves. Gold and distractors are what the live collection returns for the question.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tandem.data.containment import contains
from tandem.data.rows import TrainRow
from tandem.models.prompts import PassageLike

P = TypeVar("P", bound=PassageLike)


@dataclass(frozen=True)
class Augmented(Generic[P]):
    """Contexts for rows.

    Args:
        contexts: For each row its passages, in the order of the prompt; empty for rows that aren't questions.
        with_gold: Samples whose context holds the gold passage.
        without_gold: Samples from which it was withheld on purpose.
        not_found: Samples for which no retrieved passage is gold: they keep the best ones as they are.
        excluded: Passages that would stand in a prompt, had they not been barred.
    """

    contexts: tuple[tuple[P, ...], ...]
    with_gold: int
    without_gold: int
    not_found: int
    excluded: int = 0


def augment(
    rows: Sequence[TrainRow],
    retrieved: Sequence[Sequence[P]],
    *,
    passages: int,
    without_gold: float,
    seed: int,
    bars: Callable[[TrainRow, P], bool] | None = None,
) -> Augmented[P]:
    """Choose and order the passages of each row's prompt.

    What happens to a row depends on the seed and its id alone, not on its place among the others.

    Args:
        rows: Training rows; only questions get a context.
        retrieved: For each row what retrieval returned, best first, more than `passages` of them; ignored for
            rows that aren't questions.
        passages: Passages in a prompt.
        without_gold: Share of samples, 0 to 1, from which the gold passage is withheld.
        seed: Of both choices.
        bars: Which passages a row's prompt must not hold beside its gold one; None for no such.

    Returns:
        Contexts and counts.
    """
    contexts: list[tuple[P, ...]] = []
    counts = {"with": 0, "without": 0, "not_found": 0}
    excluded = 0
    for row, found in zip(rows, retrieved, strict=True):
        if row.question is None:
            contexts.append(())
            continue
        chance = random.Random(hashlib.sha256(f"{seed}\0{row.id}".encode()).digest())
        withhold = chance.random() < without_gold
        gold = next((passage for passage in found if is_gold(row, passage)), None)
        kept = [gold] if gold is not None and not withhold else []
        # Where gold is withheld others that hold the answer go too: else nothing would be.
        others = [
            passage
            for passage in found
            if passage is not gold and not (gold is not None and withhold and is_gold(row, passage))
        ]
        room = passages - len(kept)
        barred = [bars is not None and bars(row, passage) for passage in others]
        excluded += sum(barred[:room])
        allowed = [passage for passage, out in zip(others, barred, strict=True) if not out]
        chosen = [*kept, *allowed[:room]]
        counts["not_found" if gold is None else "without" if withhold else "with"] += 1
        chance.shuffle(chosen)
        contexts.append(tuple(chosen))
    return Augmented(tuple(contexts), counts["with"], counts["without"], counts["not_found"], excluded)


def is_gold(row: TrainRow, passage: PassageLike) -> bool:
    """Whether a passage comes from the row's gold document, where it names one, and holds one of its answers."""
    if row.source is not None and passage.source != row.source:
        return False
    return any(contains(passage.text, answer) for answer in row.answers)
