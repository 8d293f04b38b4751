from __future__ import annotations

from pathlib import Path

import pytest

from tandem.artifacts.manifest import write_manifest
from tandem.errors import ModelError
from tandem.evaluation.adapters import read_adapter


def test_an_adapter_that_tells_classes_answers_no_questions(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    write_manifest(tmp_path, name="c", id="c-1", type="adapter", meta={"task": "classification"})
    with pytest.raises(ModelError, match="an adapter for classification, which answers no questions"):
        read_adapter(str(tmp_path), storage=tmp_path)
