"""What an arm costs, from seconds of machine time and the spec's prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.config.machine import cores
from tandem.evaluation.schema import Cost
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


def arm_cost(
    seconds: Sequence[float], correct: float, train: float | None, machine: Machine, prices: PriceSpec
) -> Cost:
    """An arm's cost.

    Args:
        seconds: Machine time of each question.
        correct: How many were answered exactly.
        train: What training its adapter cost; 0 without one, None where unknown.
        machine: What answered.
        prices: The spec's.
    """
    total = machine.price(sum(seconds), prices)
    return Cost(
        train=train,
        per_1k=1000.0 * total / len(seconds),
        per_correct=total / correct if correct else None,
    )


def this_machine() -> Machine:
    """The cores that this process may use, and the GPUs that it sees: what the engine runs on."""
    import torch

    return Machine(cpus=float(cores()), gpus=float(torch.cuda.device_count()))
