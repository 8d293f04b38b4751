"""Several training runs by one group of workers without Ray: `torchrun … training_group.py RUNS`.

RUNS is a JSON file: a list of ``{"folder", "spec", "interrupts": [steps, …], "unfinished": bool, "told": steps,
"aside": bool, "torn": bool}``. Each run is begun once per interrupt, which ends it after so many steps as a kill would,
and then once more to its end, unless it is to be left unfinished; where a loss is no number, why it ended is in the
file ``diverged``. After `told` steps it hears that a machine goes away, or that it must step aside. A torn run is begun
once more at first, and ends when its first checkpoint is written and not yet stored. A folder holds what earlier groups
left in it; train-examples and eval-examples lie beside it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tandem.config.machine import cores
from tandem.errors import DivergedError, PreemptedError
from tandem.specs.finetune import FinetuneSpec
from tandem.training.group import Notice, Store, TorchrunGroup
from tandem.training.loop_config import LoopConfig
from tandem.training.metrics import Record
from tandem.training.schedule import total_steps
from tandem.training.worker import train


class Interrupted(Exception):
    """What a kill is here."""


class InterruptedGroup(TorchrunGroup):
    """A group that ends after so many steps; the loop asks once after each whether a machine goes away.

    What is to be stored after it was told so is stored for those who wait for it, and for nobody else: a machine that
    goes away takes with it what is on its way.
    """

    def __init__(self, steps: int, told: int, notice: Notice) -> None:
        super().__init__()
        self._left = steps
        self._told = told
        self._notice = notice
        self._on_its_way: Store | None = None

    def report(self, record: Record, target: Path, store: Store) -> None:
        if self._told > 0:
            super().report(record, target, store)
        else:
            self._on_its_way = store

    def wait(self) -> None:
        super().wait()
        if self._on_its_way is not None:
            self._on_its_way()
            self._on_its_way = None

    def notice(self) -> Notice:
        self._left -= 1
        self._told -= 1
        if not self._left:
            super().wait()  # a thread of this process can't be killed: it would meet its successor
            raise Interrupted
        return self._notice if self._told <= 0 else Notice.NONE


class TornGroup(TorchrunGroup):
    """A group that is killed between the local disk and the storage."""

    def report(self, record: Record, target: Path, store: Store) -> None:
        raise Interrupted


def loop_config(folder: Path, spec: FinetuneSpec) -> LoopConfig:
    (folder / "out").mkdir(exist_ok=True)
    return LoopConfig(
        spec=spec,
        model=spec.model,
        train=str(folder.parent / "train-examples"),
        eval=str(folder.parent / "eval-examples"),
        steps=total_steps(1000, spec.schedule),
        pad_id=0,
        packing=spec.schedule.packing,
        metrics=str(folder / "metrics.jsonl"),
        checkpoints=str(folder / "checkpoints"),
        output=str(folder / "out"),
        started_at=time.time(),
    )


def run(
    folder: Path, spec: dict[str, Any], interrupts: list[int], unfinished: bool, told: int, aside: bool, torn: bool
) -> None:
    config = loop_config(folder, FinetuneSpec.model_validate(spec))
    groups: list[Callable[[], TorchrunGroup]] = [TornGroup] if torn else []
    notice = Notice.STEP_ASIDE if aside else Notice.MACHINE_LEAVES
    groups += [partial(InterruptedGroup, steps, told, notice) for steps in interrupts]
    for group in groups:
        try:
            begin(config, group())
        except (Interrupted, PreemptedError):
            continue
        raise AssertionError("it ended before it was interrupted")
    if not unfinished:
        try:
            begin(config, TorchrunGroup())
        except DivergedError as error:
            (folder / "diverged").write_text(str(error))


def begin(config: LoopConfig, group: TorchrunGroup) -> None:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    # It outlives a model of ZeRO 3 whose engine is still somewhere: a worker of Ray Train has one run in its life.
    unset_hf_deepspeed_config()
    train(config, group)


def main() -> None:
    # One thread a worker, as if there were as many workers as cores: threads of a tiny model wait for each other.
    os.environ["LOCAL_WORLD_SIZE"] = str(cores())
    for item in json.loads(Path(sys.argv[1]).read_text()):
        run(Path(item.pop("folder")), **item)


if __name__ == "__main__":
    main()
