"""What an arm costs, from seconds of machine time and the spec's prices; and when training pays for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem.config.machine import cores
from tandem.evaluation.schema import ArmReport, BreakEven, Cost
from tandem.specs.compare import PriceSpec

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Machine:
    """What answers, or trains.

    Attributes:
        cpus: Cores that it holds meanwhile.
        gpus: GPUs.
    """

    cpus: float
    gpus: float

    def price(self, seconds: float, prices: PriceSpec) -> float:
        """What holding it for so long costs."""
        return seconds / SECONDS_PER_HOUR * (self.cpus * prices.cpu_hour + self.gpus * prices.gpu_hour)


def mean_cost(costs: Sequence[float | None]) -> float | None:
    """What training one of several adapters cost on average; None where it isn't known of all, or there is none."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) / len(known) if known and len(known) == len(costs) else None


def arm_cost(
    seconds: Sequence[float], correct: float, train: float | None, machine: Machine, prices: PriceSpec
) -> Cost:
    """An arm's cost.

    Args:
        seconds: Machine time of each question.
        correct: How many were answered right.
        train: What training its adapter cost; 0 without one, None where unknown.
        machine: What answered.
        prices: The spec's.
    """
    each = sum(seconds) / len(seconds)
    per_1k = 1000.0 * machine.price(each, prices)
    spread = None if train is None else per_1k + 1000.0 * train / prices.questions
    return Cost(
        train=train,
        per_1k=per_1k,
        per_1k_with_training=spread,
        per_correct=per_1k / 1000.0 * len(seconds) / correct if correct else None,
        cpu_s_per_1k=1000.0 * each * machine.cpus,
        gpu_s_per_1k=1000.0 * each * machine.gpus,
    )


def break_even(arms: Mapping[str, ArmReport], metric: str) -> list[BreakEven]:
    """After how many questions each trained arm is cheaper than each untrained one, per question and per right answer.

    Args:
        arms: Of the comparison.
        metric: By which an answer is right.
    """
    candidates = {name: arm for name, arm in arms.items() if arm.candidate}
    trained = {name: arm for name, arm in candidates.items() if arm.cost.train}
    others = {name: arm for name, arm in candidates.items() if arm.cost.train == 0.0}
    return [
        BreakEven(
            arm=name,
            against=against,
            questions=_after(arm.cost.train or 0.0, arm.cost.per_1k, other.cost.per_1k),
            questions_per_correct=_after_correct(arm, other, metric),
        )
        for name, arm in trained.items()
        for against, other in others.items()
    ]


def _after(train: float, per_1k: float, other_per_1k: float) -> int | None:
    saved = (other_per_1k - per_1k) / 1000.0
    # What divides evenly mustn't become one more by rounding.
    return math.ceil(round(train / saved, 6)) if saved > 0 else None


def _after_correct(arm: ArmReport, other: ArmReport, metric: str) -> int | None:
    # (train + n c) / (n q) = c' / q', solved for n; an arm that is never right costs without end per right answer.
    quality, against = arm.metrics[metric] or 0.0, other.metrics[metric] or 0.0
    if not quality:
        return None
    if not against:
        return 1
    return _after(arm.cost.train or 0.0, arm.cost.per_1k, quality * other.cost.per_1k / against)


def this_machine() -> Machine:
    """The cores that this process may use, and the GPUs that it sees: what the engine runs on."""
    import torch

    return Machine(cpus=float(cores()), gpus=float(torch.cuda.device_count()))
