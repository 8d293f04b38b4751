"""What an embedder's files say of it without being loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tandem.artifacts.manifest import sha256_file
from tandem.errors import ModelError
from tandem.retrieval.prompts import CONFIGURATION

_IDENTITY = (
    "*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "modules.json",
    "sentence_*_config.json",
    "adapter_config.json",
    CONFIGURATION,
)


def fingerprint(model_path: Path) -> str:
    """SHA-256 (hex) over what decides an embedder's vectors: the same wherever the folder lies.

    Args:
        model_path: The embedder's folder.
    """
    found = sorted({path for pattern in _IDENTITY for path in model_path.rglob(pattern)})
    lines = [f"{path.relative_to(model_path).as_posix()} {sha256_file(path)}" for path in found]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def configured_dimension(model_path: Path) -> int:
    """The vectors' length, by the model's configuration: a job's driver needs it and not the weights.

    Args:
        model_path: The embedder's folder.

    Raises:
        ModelError: No file states it.
    """
    # The last module that changes the length states it: a dense layer, else the pooling, else the transformer.
    modules = [*sorted(model_path.glob("*_Dense"), reverse=True), *sorted(model_path.glob("*_Pooling")), model_path]
    for path in [folder / "config.json" for folder in modules]:
        data = json.loads(path.read_text()) if path.is_file() else {}
        for key in ("out_features", "word_embedding_dimension", "embedding_dimension", "hidden_size"):
            if isinstance(data.get(key), int):
                return int(data[key])
    raise ModelError("its configuration states no dimension", where=str(model_path), remedy="name an embedder")
