from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tandem.errors import ModelError
from tandem.models.lora import adapter_rank, check_fits

MODULE = "model.layers.0.self_attn.q_proj"


def model(folder: Path, *, inputs: int = 8, outputs: int = 6, name: str = f"{MODULE}.weight") -> Path:
    folder.mkdir()
    save_file({name: np.zeros((outputs, inputs), np.float32)}, folder / "model.safetensors")
    return folder


def adapter(folder: Path, *, inputs: int = 8, outputs: int = 6, **config: object) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 2, **config}))
    weights = {
        f"base_model.model.{MODULE}.lora_A.weight": np.zeros((2, inputs), np.float32),
        f"base_model.model.{MODULE}.lora_B.weight": np.zeros((outputs, 2), np.float32),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def test_an_adapter_of_the_base_model_fits(tmp_path: Path) -> None:
    check_fits(adapter(tmp_path / "a"), model(tmp_path / "m"))


@pytest.mark.parametrize("features", [{"inputs": 4}, {"outputs": 12}])
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, features: dict[str, int]) -> None:
    with pytest.raises(ModelError, match=r"q_proj has \d features there, \d+ in the adapter"):
        check_fits(adapter(tmp_path / "a", **features), model(tmp_path / "m"))


def test_what_cannot_be_compared_is_left_to_the_engine(tmp_path: Path) -> None:
    packed = model(tmp_path / "packed", inputs=4, name=f"{MODULE}.qweight")
    check_fits(adapter(tmp_path / "a"), packed)
    check_fits(adapter(tmp_path / "transposed", fan_in_fan_out=True), model(tmp_path / "m", inputs=6, outputs=8))


def test_weights_that_were_cut_off_are_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(ModelError, match="weights that can't be read"):
        check_fits(folder, model(tmp_path / "m"))


def test_the_largest_rank_counts(tmp_path: Path) -> None:
    assert adapter_rank(adapter(tmp_path / "a", rank_pattern={"q_proj": 24})) == 24
    assert adapter_rank(adapter(tmp_path / "b", r=4)) == 4


@pytest.mark.parametrize("config", ["{}", "[]", "no json", '{"r": "many"}'])
def test_a_broken_configuration_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError, match="not a LoRA adapter's configuration"):
        adapter_rank(tmp_path)
