"""What is trained when: number of steps, learning rate, and which rows make which batch. All of it pure.

The plan depends on the data and the spec alone, not on the number of workers: whoever resumes at step 17 goes on with
the rows of step 17.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice

from tandem.specs.finetune import ScheduleSpec

_WINDOW = 4  # batches within which rows are sorted by length: enough to save padding, too few to order the data


def total_steps(rows: int, schedule: ScheduleSpec) -> int:
    """Optimizer steps: what the epochs need, at most `max_steps`, at least one."""
    steps = max(1, math.ceil(schedule.epochs * rows / schedule.batch_size))
    return steps if schedule.max_steps is None else min(steps, schedule.max_steps)


def learning_rate_factor(step: int, *, steps: int, schedule: ScheduleSpec) -> float:
    """The learning rate of a step, as a share of the highest: linear warm-up, then as the spec says.

    Args:
        step: From 0.
        steps: Steps in all.
        schedule: `scheduler` is cosine (to 0, Loshchilov & Hutter, arXiv 1608.03983), linear (to 0) or constant.

    Returns:
        Above 0 (the last step learns too), at most 1.
    """
    warmup = math.ceil(schedule.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)  # 0 ≤ progress < 1
    if schedule.scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return 1 - min(progress, 1.0) if schedule.scheduler == "linear" else 1.0


def plan_batches(
    lengths: Sequence[int], *, steps: int, batch_size: int, seed: int, by_length: bool = False, done: int = 0
) -> Iterator[list[int]]:
    """The rows of each step, made when they are asked for: one epoch's order is held at a time, eight bytes a row.

    Every row comes once before any comes again; an epoch's rest is filled up from the next.

    Args:
        lengths: Tokens of each row.
        steps: Optimizer steps in all.
        batch_size: Rows per step.
        seed: Of the order.
        by_length: Rows of similar length share a batch, which saves padding where they aren't packed; else chance
            alone decides, as the gradient's expectation wants it.
        done: Steps of which nobody needs the rows any more.

    Returns:
        `steps - done` lists of `batch_size` indices into `lengths`, each sorted by length.
    """
    window = _WINDOW * batch_size if by_length else None
    rows = islice(_order(lengths, batch_size=batch_size, seed=seed, window=window), done * batch_size, None)
    for _ in range(done, steps):
        yield sorted(islice(rows, batch_size), key=lengths.__getitem__)


def _order(lengths: Sequence[int], *, batch_size: int, seed: int, window: int | None) -> Iterator[int]:
    """The rows of epoch after epoch, without end; by chance, or within windows by length and in groups by chance."""
    chance = random.Random(seed)
    while True:
        epoch = array("q", range(len(lengths)))
        chance.shuffle(epoch)
        if window is None:
            yield from epoch
            continue
        # Sorted within windows of one epoch, so that no row overtakes another epoch's.
        for at in range(0, len(epoch), window):
            ordered = sorted(epoch[at : at + window], key=lengths.__getitem__)
            groups = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
            chance.shuffle(groups)
            for group in groups:
                yield from group


def micro_batches(
    rows: Sequence[int], lengths: Sequence[int], *, micro_batch_size: int, packing: bool
) -> list[list[int]]:
    """The forward passes of a batch, whoever will run them.

    Packed: bins of about equally many tokens, the longest row first and each into the emptiest bin (Graham's LPT rule,
    SIAM J. Appl. Math. 17, 1969: at most 4/3 of the best). A bin may hold more than `micro_batch_size` rows, but never
    more tokens than `micro_batch_size` of the longest rows have. Padded: neighbours in length.

    Args:
        rows: Indices into `lengths`.
        lengths: Tokens of each row of the data.
        micro_batch_size: Rows of a pass, on average.
        packing: Whether a pass is one row without padding.

    Returns:
        ceil(rows / micro_batch_size) lists, none empty, by number of tokens, so that neighbours take equally long.
    """
    ordered = sorted(rows, key=lambda index: lengths[index])
    starts = range(0, len(ordered), micro_batch_size)
    if not packing:
        return [ordered[at : at + micro_batch_size] for at in starts]
    bins = [(0, number, list[int]()) for number in range(len(starts))]  # a heap: tokens, a tie's order, rows
    for index in reversed(ordered):
        tokens, number, members = bins[0]
        heapq.heapreplace(bins, (tokens + lengths[index], number, [*members, index]))
    return [members for _, _, members in sorted(bins)]


def share(micros: Sequence[list[int]], *, rank: int, workers: int) -> list[list[int]]:
    """One worker's part of a batch's forward passes.

    Those that take equally long run at the same time on different workers, so that none waits long for another.

    Args:
        micros: What `micro_batches` returned, a multiple of `workers`.
        rank: This worker, from 0.
        workers: How many there are.

    Returns:
        One list of indices per accumulation step.
    """
    return [list(micro) for micro in micros[rank::workers]]
