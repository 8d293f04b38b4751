"""An embedder computed by PyTorch: on a GPU, and where OpenVINO doesn't do."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from tandem.retrieval.embedding import Dtype, Encode

# Tokens to whose multiple a pass is padded: what oneDNN prepares for a shape and the C library keeps of it stays in the
# process, a gigabyte over the first hundred batches of many lengths. It takes no longer (MiniLM, 48 words).
LENGTH_STEP = 8


class PyTorchModel:
    """A sentence-transformers model; several threads may compute with it.

    Args:
        model_path: A folder with modules.json, config.json, tokenizer.json and safetensors weights.
        on_gpu: Load it there.

    Raises:
        ModelError: The folder isn't such a model.

    Attributes:
        model: sentence-transformers' object.
        dimension: The vectors' length.
        max_tokens: How much of a text is read, with its prompt; 0: all of it.
        pools_prompts: Whether a prompt's tokens are a part of what is pooled, as most models have it.
    """

    def __init__(self, model_path: Path, *, on_gpu: bool) -> None:
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer

        try:
            self.model: Any = SentenceTransformer(
                str(model_path),
                device="cuda" if on_gpu else "cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"not an embedder that can be loaded: {error}",
                where=str(model_path),
                remedy="name a sentence-transformers model",
            ) from error
        self.dimension = int(self.model.get_embedding_dimension())
        self.pools_prompts = all(getattr(module, "include_prompt", True) for module in self.model.modules())
        # Where pooling leaves out the prompt, sentence-transformers takes the padding after it for a part of it.
        if isinstance(self.model[0], Transformer) and self.pools_prompts:
            _pad_in_steps(self.model[0], self.model.max_seq_length)
        # A tokenizer keeps padding and truncation as its state, and changes them at a call that wants others; a change
        # under another thread's call fails or spoils it. These first texts set it to what all later ones want.
        self._turn: AbstractContextManager[Any] = nullcontext()
        self.encode([""], "", 1, question=True)
        for_questions = self.tokenizer.to_str()
        self.encode([""], "", 1, question=False)
        self._settled = for_questions if for_questions == self.tokenizer.to_str() else None
        if self._settled is None:  # they want different things for good: each has it to itself
            self._turn = threading.Lock()
        self.max_tokens = int((self.tokenizer.truncation or {}).get("max_length", 0))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that prepares its texts."""
        tokenizer: Tokenizer = self.model.tokenizer.backend_tokenizer
        return tokenizer

    def settled_tokenizer(self) -> Tokenizer:
        """A tokenizer of the caller's own, set for all that is embedded.

        Raises:
            ValueError: Questions are prepared otherwise than passages.
        """
        from tokenizers import Tokenizer

        if self._settled is None:
            raise ValueError("questions are cut otherwise than passages")
        return Tokenizer.from_str(self._settled)

    def computing_in(self, dtype: Dtype) -> Encode:
        """What embeds in this type; where the processor has no bf16 it is emulated, and slow."""
        return functools.partial(self.encode, autocast=dtype == "bfloat16")

    def encode(
        self, texts: Sequence[str], prompt: str, batch_size: int, *, question: bool, autocast: bool = False
    ) -> NDArray[np.float32]:
        """See `Encode`.

        Args:
            autocast: Compute matrix products in bf16. With all of it in bf16 one neighbour in 150 is another one, with
                what lies between the products in float32 one in 250, and it takes but 6 % longer (MiniLM, 512 texts,
                nearest 10).
        """
        import numpy as np
        import torch

        encode = self.model.encode_query if question else self.model.encode_document
        with self._turn, torch.autocast(self.model.device.type, torch.bfloat16, enabled=autocast):
            vectors = encode(
                list(texts), prompt=prompt, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False
            )
        return np.asarray(vectors, dtype=np.float32)


def _pad_in_steps(module: Any, max_tokens: int | None) -> None:
    # A length that isn't such a multiple may be all that the model has positions for.
    if max_tokens is not None and max_tokens % LENGTH_STEP == 0:
        text = {"pad_to_multiple_of": LENGTH_STEP} | module.processing_kwargs.get("text", {})
        module.processing_kwargs = {**module.processing_kwargs, "text": text}
