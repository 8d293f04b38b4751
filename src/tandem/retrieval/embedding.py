"""Texts to vectors, by a sentence-transformers model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.manifest import sha256_file
from tandem.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_IDENTITY = ("*.safetensors", "tokenizer.json", "config.json", "modules.json", "sentence_bert_config.json")


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


class Embedder:
    """A sentence-transformers model on this process's device.

    Args:
        model_path: A folder with modules.json, config.json, tokenizer.json and safetensors weights.
        batch_size: Texts in one forward pass.

    Raises:
        ModelError: The folder isn't such a model.
    """

    def __init__(self, model_path: Path, batch_size: int) -> None:
        if not any(model_path.rglob("*.safetensors")):
            # Pickled weights can run code when they are loaded: they aren't even tried.
            raise ModelError(
                "no safetensors weights in it", where=str(model_path), remedy="name an embedder saved as safetensors"
            )
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(
                str(model_path),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"not an embedder that can be loaded: {error}",
                where=str(model_path),
                remedy="name a sentence-transformers model",
            ) from error
        self._batch_size = batch_size
        self.dimension = int(self._model.get_embedding_dimension())
        self.max_tokens = int(self._model.max_seq_length or 0)

    def __repr__(self) -> str:
        return f"Embedder(dimension={self.dimension}, max_tokens={self.max_tokens}, batch_size={self._batch_size})"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        sentence-transformers sorts them by length before it makes batches, so that little of a batch is padding.

        Args:
            texts: Any number; each is cut after `max_tokens` tokens.

        Returns:
            float32, (texts, dimension), rows of length 1.
        """
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = self._model.encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)
