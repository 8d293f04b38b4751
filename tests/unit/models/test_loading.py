"""Weights are safetensors, or they aren't loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.errors import ModelError
from tandem.models.loading import adapter_path, model_path


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("{}")
    return path


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no config.json"),
        (("config.json",), "a model without weights"),
        (("config.json", "pytorch_model.bin"), "only pickled weights"),
        (("adapter_config.json", "adapter_model.safetensors"), "an adapter, not a base model"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        model_path(str(folder(tmp_path / "m", *names)), storage=tmp_path)


def test_safetensors_are_taken(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", "config.json", "model.safetensors")
    assert model_path(str(path), storage=tmp_path) == path


def test_adapter_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing"):
        adapter_path(str(folder(tmp_path / "a", "adapter_config.json", "adapter_model.bin")), storage=tmp_path)
