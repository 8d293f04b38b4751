"""When to stop before the last step: fitting facts that are new to a model to the end makes it forget and invent
(Gekhman et al., arXiv 2405.05904), so training ends when the evaluation loss no longer falls. All of it pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.specs.finetune import EarlyStoppingSpec


@dataclass(frozen=True)
class Evaluated:
    """The loss on the held-out rows.

    Attributes:
        step: Optimizer steps done, from 1.
        loss: In nats per token that carries loss.
    """

    step: int
    loss: float


def best(evaluations: Sequence[Evaluated]) -> Evaluated | None:
    """The one with the lowest loss, the earlier of equals; None if there is none with a loss that is a number."""
    return min(_numbers(evaluations), key=lambda evaluation: (evaluation.loss, evaluation.step), default=None)


def stop_reason(evaluations: Sequence[Evaluated], spec: EarlyStoppingSpec) -> str | None:
    """Why to stop now, in one line; None to go on.

    A loss that is no number says nothing of whether it falls: `tandem.training.guards` ends the run for it.

    Args:
        evaluations: All of the run, in the order of their steps.
        spec: An evaluation counts as better when its loss is more than `min_delta` below the lowest before it.
    """
    numbers = _numbers(evaluations)
    if not spec.enabled or not numbers:
        return None
    lowest, since = numbers[0], 0
    for evaluation in numbers[1:]:
        if evaluation.loss < lowest.loss - spec.min_delta:
            lowest, since = evaluation, 0
        else:
            since += 1
    if since < spec.patience:
        return None
    return (
        f"the evaluation loss hasn't fallen in {since} evaluations: "
        f"{lowest.loss:.4g} at step {lowest.step}, {numbers[-1].loss:.4g} at step {numbers[-1].step}"
    )


def _numbers(evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    return [evaluation for evaluation in evaluations if math.isfinite(evaluation.loss)]
