from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_models import write_embedder

from tandem.errors import ModelError
from tandem.retrieval.embedder_files import configured_dimension, fingerprint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


def test_the_fingerprint_follows_the_content_and_not_the_place(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert fingerprint(copy) == fingerprint(model)
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert fingerprint(copy) != fingerprint(model)


def test_the_dimension_is_known_without_the_weights_or_said_to_be_missing(model: Path, tmp_path: Path) -> None:
    assert configured_dimension(model) == 32
    with pytest.raises(ModelError, match="no dimension"):
        configured_dimension(tmp_path)
