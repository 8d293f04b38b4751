from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib import import_module

import pytest

from tandem.config.light_imports import absent


def test_what_is_absent_is_there_again_afterwards() -> None:
    assert "antigravity" not in sys.modules
    with absent("antigravity"), pytest.raises(ImportError):
        import_module("antigravity")
    assert importlib.util.find_spec("antigravity") is not None
    with absent("json"):
        assert sys.modules["json"] is json, "what somebody has imported stays"


def test_a_training_worker_imports_neither_scipy_nor_mlflow_and_whoever_wants_them_later_can() -> None:
    script = """
import sys
from tandem.config.light_imports import absent, skip_scipy
skip_scipy()
with absent("mlflow"):
    import deepspeed
from peft import get_peft_model
from transformers.models.llama.modeling_llama import LlamaForCausalLM
print(sorted({"scipy", "sklearn", "mlflow", "pandas"} & set(sys.modules)))
import mlflow, scipy.optimize
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
