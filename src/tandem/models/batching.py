"""Which texts are read together."""

from __future__ import annotations

from collections.abc import Sequence


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Batches of texts of like length, so that little of one is padding; the longest come first.

    Args:
        lengths: Tokens of each text.
        tokens: Of a batch, its padding counted; a text of more is a batch of its own.

    Returns:
        Places in `lengths`, each in one batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # If memory is short, it shows at once.
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens:
            batches.append([])
        batches[-1].append(index)
    return batches
