"""What is trained when: number of steps, learning rate, and which rows make which batch. All of it pure.

The plan depends on the data and the spec alone, not on the number of workers: whoever resumes at step 17 goes on with
the rows of step 17.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

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


def plan_batches(lengths: Sequence[int], *, steps: int, batch_size: int, seed: int) -> list[list[int]]:
    """The rows of each step, rows of similar length together.

    Every row comes once before any comes again; an epoch's rest is filled up from the next.

    Args:
        lengths: Tokens of each row.
        steps: Optimizer steps.
        batch_size: Rows per step.
        seed: Of the order.

    Returns:
        `steps` lists of `batch_size` indices into `lengths`, each sorted by length.
    """
    chance = random.Random(seed)
    stream: list[int] = []
    while len(stream) < steps * batch_size:
        epoch = list(range(len(lengths)))
        chance.shuffle(epoch)
        # Sorted within windows of one epoch, so that no row overtakes another epoch's.
        size = _WINDOW * batch_size
        for at in range(0, len(epoch), size):
            ordered = sorted(epoch[at : at + size], key=lambda index: lengths[index])
            groups = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
            chance.shuffle(groups)
            stream += [index for group in groups for index in group]
    batches = [stream[step * batch_size : (step + 1) * batch_size] for step in range(steps)]
    return [sorted(batch, key=lambda index: lengths[index]) for batch in batches]


def share(batch: Sequence[int], *, micro_batch_size: int, rank: int, workers: int) -> list[list[int]]:
    """One worker's part of a batch, as micro-batches.

    Neighbours in length run at the same time on different workers, so that none waits long for another.

    Args:
        batch: Indices, sorted by length; a multiple of micro_batch_size × workers.
        micro_batch_size: Rows per forward pass.
        rank: This worker, from 0.
        workers: How many there are.

    Returns:
        One list of indices per accumulation step.
    """
    micros = [list(batch[at : at + micro_batch_size]) for at in range(0, len(batch), micro_batch_size)]
    return micros[rank::workers]
