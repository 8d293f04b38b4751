"""Train a little and say what the engine computes then: `torchrun … engine_logits.py CASES`, without Ray.

CASES is a JSON file: a list of ``{"folder", "spec"}``; beside each folder lie the examples. Into each folder go the
trained weights (``out``) and the engine's logits at that moment (``logits.npy``).
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from stand_ins.training_group import loop_config

from tandem.specs.finetune import FinetuneSpec
from tandem.training.checkpoints.saving import save_weights
from tandem.training.loop import planned, set_up, train_step

STEPS = 3
PROMPT = [[5, 17, 40, 8, 99, 3, 61, 70]]


def run(folder: Path, spec: FinetuneSpec) -> None:
    config = loop_config(folder, spec)
    worker = set_up(config)
    data = worker.task.load_data(config.train)
    for step, batch in enumerate(islice(planned(config, data), STEPS)):
        train_step(worker, config, data, batch, step)
    worker.engine.eval()
    with torch.no_grad():
        logits = worker.engine(input_ids=torch.tensor(PROMPT)).logits
    save_weights(worker.engine, Path(config.output))
    if worker.first:
        np.save(folder / "logits.npy", logits.float().numpy())


def main() -> None:
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    for case in json.loads(Path(sys.argv[1]).read_text()):
        run(Path(case["folder"]), FinetuneSpec.model_validate(case["spec"]))


if __name__ == "__main__":
    main()
