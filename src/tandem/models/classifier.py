"""A trained sequence classifier as it is used: texts in, a probability for each label out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.config.light_imports import skip_scipy
from tandem.config.machine import cores, read_processor
from tandem.errors import ModelError
from tandem.models.batching import by_length
from tandem.models.engines.hardware import choose_reading_dtype
from tandem.specs.compare import EngineSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Texts × longest. A processor gains nothing by more, and pays for the memory.
BATCH_TOKENS, BATCH_TOKENS_GPU = 1024, 16_384
ADAPTER = "adapter_model.safetensors"
_UNLIMITED = 1_000_000_000  # tokenizers without a limit say 10^30


@dataclass(frozen=True)
class Read:
    """What a classifier makes of some texts.

    Attributes:
        probabilities: float32, (texts, labels); rows add up to 1.
        tokens: That were read of each text.
        latency_ms: What the batch took in which each text was read.
    """

    probabilities: NDArray[np.float32]
    tokens: tuple[int, ...]
    latency_ms: tuple[float, ...]


def classifier_labels(folder: Path) -> tuple[str, ...] | None:
    """The labels that a whole classifier's configuration names, in the order of its outputs; None for an adapter."""
    path = folder / "config.json"
    named = json.loads(path.read_text()).get("id2label") if path.is_file() else None
    return None if named is None else tuple(named[number] for number in sorted(named, key=int))


class TextClassifier:
    """A pretrained model with a trained head, or with a LoRA adapter that carries one.

    Args:
        spec: Number type and threads.
        folder: Weights or adapter, and the tokenizer.
        base: The base model's folder, for an adapter.
        labels: In the order of its outputs.
        max_length: Tokens of a text that are read; None: as many as it can.

    Raises:
        ModelError: It doesn't load, or it has no token to pad with, or another number of outputs.
    """

    def __init__(
        self, spec: EngineSpec, folder: Path, base: Path | None, labels: Sequence[str], max_length: int | None
    ) -> None:
        skip_scipy()
        import torch
        from transformers import AutoTokenizer

        torch.set_num_threads(spec.threads or cores())
        processor = read_processor()
        self._device = "cuda" if processor.has_gpu else "cpu"
        self._batch_tokens = BATCH_TOKENS_GPU if processor.has_gpu else BATCH_TOKENS
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._pad = self._tokenizer.pad_token_id
        if self._pad is None:
            raise ModelError("its tokenizer has no token to pad with", where=str(folder), remedy="set its pad_token")
        dtype = getattr(torch, choose_reading_dtype(spec.dtype, processor))
        model = _load(folder, base, len(labels), self._pad, dtype)
        if model.config.num_labels != len(labels):
            raise ModelError(f"it tells {model.config.num_labels} labels apart, not {len(labels)}", where=str(folder))
        self._model: Any = model.to(self._device).eval()
        limits = (self._tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
        known = [max_length] if max_length else [int(limit) for limit in limits if limit and limit < _UNLIMITED]
        self._max_length = min(known, default=None)

    def read(self, texts: Sequence[str]) -> Read:
        """The probability of each label for each text; of a text what comes after `max_length` tokens isn't read."""
        import numpy as np
        import torch

        limit: dict[str, Any] = {"truncation": True, "max_length": self._max_length} if self._max_length else {}
        sequences: list[list[int]] = self._tokenizer(list(texts), **limit)["input_ids"]
        lengths = [len(ids) for ids in sequences]
        rows: dict[int, tuple[Any, float]] = {}
        for batch in by_length(lengths, self._batch_tokens):
            width = lengths[batch[0]]
            began = time.perf_counter()
            ids = torch.tensor([sequences[i] + [self._pad] * (width - lengths[i]) for i in batch])  # (batch, width)
            mask = torch.tensor([[1] * lengths[i] + [0] * (width - lengths[i]) for i in batch])
            with torch.inference_mode():
                logits = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits
            probabilities = logits.float().softmax(-1).cpu().numpy()
            latency_ms = (time.perf_counter() - began) * 1000
            rows |= {i: (each, latency_ms) for i, each in zip(batch, probabilities, strict=True)}
        read = [rows[i] for i in range(len(texts))]
        return Read(np.stack([each for each, _ in read]), tuple(lengths), tuple(each for _, each in read))

    def close(self) -> None:
        """Drop the model; memory goes with it."""
        self._model = None


def _load(folder: Path, base: Path | None, labels: int, pad_id: int, dtype: Any) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False}
    try:
        if base is None:
            return AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=pad_id, **options)
        from peft import PeftModel

        # The base's own head, if it has one, may be of other classes: the adapter brings the trained one.
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=labels, pad_token_id=pad_id, ignore_mismatched_sizes=True, **options
        )
        return PeftModel.from_pretrained(model, str(folder))
    except (ValueError, RuntimeError, OSError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"not a classifier that can be loaded: {str(error).splitlines()[0]}",
            where=str(folder),
            remedy="give what a finetune job with task: classification made",
        ) from error
