"""What was saved computes what the training engine computed at its end: full weights, adapters and merged weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stand_ins.engine_logits import PROMPT
from tiny_models import write_llama

from tandem.training.artifact import merge_adapter
from tandem.training.data.dataset import Examples

TESTS = Path(__file__).parents[1]
SCRIPT = TESTS / "stand_ins" / "engine_logits.py"
DEADLINE_S = 600
# ZeRO 3 comes last: a process that has had a model of it builds later ones for it too.
CASES = [
    *(("full", 1, "fp32"), ("lora", 1, "fp32"), ("full", 2, "fp32"), ("lora", 2, "fp32"), ("full", 2, "bf16")),
    *(("full", 3, "fp32"), ("lora", 3, "fp32")),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by two workers, one group for all cases."""
    root = tmp_path_factory.mktemp("artifact")
    write_llama(root / "model", hidden=32)
    rows = [(list(range(at, at + 8)), [False] * 4 + [True] * 4) for at in range(10, 42)]
    for name in ("train-examples", "eval-examples"):
        Examples.pack(rows).save(root / name)
    cases = []
    for method, stage, precision in CASES:
        folder = root / f"{method}-{stage}-{precision}"
        folder.mkdir()
        spec = {
            "kind": "finetune",
            "name": "t",
            "model": str(root / "model"),
            "data": {"train": "t.jsonl"},
            "method": method,
            "precision": precision,
            "deepspeed": stage,
            "workers": 2,
            "lora": {"r": 4, "alpha": 8},
            "schedule": {"max_steps": 9, "learning_rate": 0.01, "batch_size": 8, "micro_batch_size": 2},
        }
        cases.append({"folder": str(folder), "spec": spec})
    (root / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            SCRIPT,
            root / "cases.json",
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return root


def logits(model: object) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(PROMPT)).logits.float().numpy()  # type: ignore[operator]


@pytest.mark.parametrize(("method", "stage", "precision"), CASES)
def test_the_logits_are_those_of_the_engine(root: Path, method: str, stage: int, precision: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = root / f"{method}-{stage}-{precision}"
    engine = np.load(folder / "logits.npy")
    base = AutoModelForCausalLM.from_pretrained(root / "model")
    assert np.abs(logits(base) - engine).max() > 0.05  # it has learnt something
    tolerance = {"fp32": 1e-4, "bf16": 2e-2}[precision]
    if method == "full":
        np.testing.assert_allclose(logits(AutoModelForCausalLM.from_pretrained(folder / "out")), engine, atol=tolerance)
        return
    np.testing.assert_allclose(logits(PeftModel.from_pretrained(base, folder / "out")), engine, atol=tolerance)
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    merge_adapter(root / "model", folder / "out", folder / "merged", tokenizer)
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged")
    assert type(merged).__name__ == "LlamaForCausalLM"
    np.testing.assert_allclose(logits(merged), engine, atol=tolerance)
