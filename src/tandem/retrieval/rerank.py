"""Question and passage read together by a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.config.machine import read_processor
from tandem.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_SIZE = 32  # pairs in one forward pass


class Reranker:
    """A sentence-transformers cross-encoder on this process's device.

    Args:
        model_path: A folder with config.json, tokenizer.json and safetensors weights of a classifier with one output.

    Raises:
        ModelError: The folder isn't such a model.
    """

    def __init__(self, model_path: Path) -> None:
        if not any(model_path.glob("*.safetensors")):
            # Pickled weights can run code when they are loaded: they aren't even tried.
            raise ModelError(
                "no safetensors weights in it", where=str(model_path), remedy="name a model saved as safetensors"
            )
        from safetensors import SafetensorError
        from sentence_transformers import CrossEncoder

        try:
            self._model: Any = CrossEncoder(
                str(model_path),
                device="cuda" if read_processor().has_gpu else "cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"not a cross-encoder that can be loaded: {error}",
                where=str(model_path),
                remedy="name a sentence-transformers cross-encoder",
            ) from error
        if self._model.num_labels != 1:
            raise ModelError(
                f"it gives {self._model.num_labels} scores, not one",
                where=str(model_path),
                remedy="name a cross-encoder made for reranking",
            )
        self._path = model_path

    def __repr__(self) -> str:
        return f"Reranker({str(self._path)!r})"

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """How well passages answer questions.

        Args:
            pairs: Question and passage, any number; what doesn't fit the model is cut.

        Returns:
            float32, (pairs,), between 0 and 1.
        """
        import numpy as np
        import torch

        if not pairs:
            return np.zeros(0, dtype=np.float32)
        # A sigmoid whatever the model's own configuration says, so that a threshold means the same for all.
        scores = self._model.predict(
            list(pairs), batch_size=BATCH_SIZE, activation_fn=torch.nn.Sigmoid(), show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float32)
