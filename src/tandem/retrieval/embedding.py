"""Texts to vectors, by a sentence-transformers model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tandem.config.machine import computes_bf16, cores, read_processor, threads
from tandem.errors import ModelError
from tandem.retrieval.openvino_model import OpenVinoModel, open_openvino_model
from tandem.retrieval.prompts import Prompts, find_prompts
from tandem.retrieval.pytorch_model import PyTorchModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
# Of likenesses of vectors of length 1.
TIE = 1e-3
# bf16 is taken where it costs less than half a percent of recall.
RECALL_AT = 10
RECALL_KEPT = 0.995
MEASURED_ON = 128  # texts


class Encode(Protocol):
    """Embeds texts in one of the types; several threads may call it."""

    def __call__(self, texts: Sequence[str], prompt: str, batch_size: int, *, question: bool) -> NDArray[np.float32]:
        """Vectors of texts, float32, (texts, dimension), of whatever length the model gives them.

        Args:
            texts: One at least.
            prompt: What is put before each.
            batch_size: Texts in one forward pass.
            question: They are questions, and not passages.
        """
        ...


class Embedder:
    """A sentence-transformers model on this process's device.

    Args:
        model_path: A folder with modules.json, config.json, tokenizer.json and safetensors weights.
        batch_size: Texts in one forward pass.
        dtype: What is computed in; vectors are float32 whatever it is. `auto`: bf16 where the device computes in it and
            the samples find the same neighbours as in float32; it embeds at two to three times the rate.
        unit: Whether vectors are scaled to length 1, as a collection compared by cosine has them.
        passes: Forward passes side by side where there are texts for several; on a processor each has one thread, and
            so none waits for another. One pass has torch's threads.
        samples: For `auto`: texts like those that will be embedded. Fewer than `MEASURED_ON` don't tell, and it is
            float32; more aren't looked at.
        prompts: What is put before questions and passages; None: the model's own.

    Raises:
        ModelError: The folder isn't such a model.

    Attributes:
        dimension: The vectors' length.
        dtype: What is computed in.
        max_tokens: How much of a text is read, with its prompt; 0: all of it.
        prompts: What is put before questions and passages.
    """

    def __init__(
        self,
        model_path: Path,
        batch_size: int,
        dtype: Dtype | Literal["auto"] = "float32",
        *,
        unit: bool = True,
        passes: int = 1,
        samples: Sequence[str] = (),
        prompts: Prompts | None = None,
    ) -> None:
        if not any(model_path.rglob("*.safetensors")):
            # Pickled weights can run code when they are loaded: they aren't even tried.
            raise ModelError(
                "no safetensors weights in it", where=str(model_path), remedy="name an embedder saved as safetensors"
            )
        self.prompts = find_prompts(model_path) if prompts is None else prompts
        if self.prompts != Prompts():
            logger.warning("embedding with %r before questions and %r before passages", *astuple(self.prompts))
        self._path = model_path
        self._batch_size = batch_size
        self._unit = unit
        self._processor = read_processor()
        on_gpu = self._processor.has_gpu
        self._passes = 1 if on_gpu else passes
        self._threads = ThreadPoolExecutor(self._passes)
        self._by_pytorch: PyTorchModel | None = None
        # Where the processor has no bf16, OpenVINO computes in float32 without a word, and PyTorch emulates it.
        emulated = dtype == "bfloat16" and not computes_bf16(self._processor, cuda=False)
        self._converted = None if on_gpu or emulated else open_openvino_model(model_path, self._pytorch)
        if self._converted:
            self._by_pytorch = None
        model = self._converted or self._pytorch()
        self.dimension = model.dimension
        self.max_tokens = model.max_tokens
        # Whoever counts has a tokenizer that nobody else uses: padding and truncation are its state.
        self._counting: Any = copy.deepcopy(model.tokenizer)
        self._counting.no_padding()
        self._counting.no_truncation()
        if self.max_tokens:
            self._counting.enable_truncation(self.max_tokens)
        if dtype == "auto":
            self.dtype: Dtype = "float32"
            self._encode = self._computing_in("float32")
            if len(samples) >= MEASURED_ON and computes_bf16(self._processor, cuda=on_gpu):
                self._measure_bf16(samples[:MEASURED_ON])
        else:
            self.dtype = dtype
            self._encode = self._computing_in(dtype)

    def _pytorch(self) -> PyTorchModel:
        if self._by_pytorch is None:
            self._by_pytorch = PyTorchModel(self._path, on_gpu=self._processor.has_gpu)
            import torch

            # The same threads all the time: PyTorch keeps memory for each that it ever computed in.
            self._threads = ThreadPoolExecutor(self._passes, initializer=torch.set_num_threads, initargs=(1,))
        return self._by_pytorch

    def _computing_in(self, dtype: Dtype) -> Encode:
        encode = self._compiled(self._converted, dtype) if self._converted else None
        if encode is None:
            self._converted = None
        return encode or self._pytorch().computing_in(dtype)

    def _compiled(self, converted: OpenVinoModel, dtype: Dtype) -> Encode | None:
        each = 1 if self._passes > 1 else threads()
        # Two callers, where there are cores: a question must not wait for somebody's long texts.
        side_by_side = self._passes if self._passes > 1 or 2 * each > cores() else 2
        return converted.computing_in(dtype, passes=side_by_side, threads=each)

    def _measure_bf16(self, samples: Sequence[str]) -> None:
        exactly, exact = self._encode, self.encode(samples)
        inexactly = (
            self._compiled(self._converted, "bfloat16") if self._converted else self._pytorch().computing_in("bfloat16")
        )
        if inexactly is None:
            return
        self._encode = inexactly
        if _keeps_recall(exact, self.encode(samples)):
            self.dtype = "bfloat16"
        else:
            self._encode = exactly

    def __repr__(self) -> str:
        return f"Embedder(dimension={self.dimension}, max_tokens={self.max_tokens}, dtype={self.dtype})"

    def encode(self, texts: Sequence[str], *, question: bool = False) -> NDArray[np.float32]:
        """Embed texts, each with its prompt before it.

        They are sorted by length before they become batches, so that little of a batch is padding.

        Args:
            texts: Any number; each is cut after `max_tokens` tokens.
            question: They are questions, and not passages.

        Returns:
            float32, (texts, dimension), rows of length 1 unless `unit` is off.
        """
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        passes = min(self._passes, len(texts) // self._batch_size)
        vectors = self._side_by_side(texts, passes, question) if passes > 1 else self._pass(texts, question)
        if not self._unit:
            return vectors
        # Not by the model: in bf16 its lengths are off by up to 0.4 %.
        unit: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    def _pass(self, texts: Sequence[str], question: bool) -> NDArray[np.float32]:
        prompt = self.prompts.query if question else self.prompts.passage
        return self._encode(texts, prompt, self._batch_size, question=question)

    def _side_by_side(self, texts: Sequence[str], passes: int, question: bool) -> NDArray[np.float32]:
        import numpy as np

        # Each gets texts of every length, so that all end at about the same time.
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        shares = [by_length[first::passes] for first in range(passes)]
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        found = self._threads.map(lambda share: self._pass([texts[place] for place in share], question), shares)
        for share, part in zip(shares, found, strict=True):
            vectors[share] = part
        return vectors

    def count_tokens(self, texts: Sequence[str], *, question: bool = False) -> int:
        """Tokens that `encode` reads of these texts, together, prompts too; it may be called while others encode."""
        prompt = self.prompts.query if question else self.prompts.passage
        return sum(len(read) for read in self._counting.encode_batch_fast([prompt + text for text in texts]))


def _keeps_recall(exact: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    kept = neighbours_kept(exact, other, RECALL_AT)
    good = kept >= RECALL_KEPT
    logger.warning(
        "embedding in %s: bf16 has a recall@%d of %.2f %%", "bf16" if good else "fp32", RECALL_AT, 100 * kept
    )
    return good


def neighbours_kept(exact: NDArray[np.float32], other: NDArray[np.float32], k: int) -> float:
    """Recall@k of other vectors of the same texts: each exact one asks, as a question does, for its nearest.

    What is found counts if it is no farther than the k-th nearest, give or take `TIE`: so ann-benchmarks counts, with
    that tolerance (Aumüller, Bernhardsson & Faithfull 2018, arXiv 1807.05614). Of two neighbours as near, either will
    do.

    Args:
        exact: float32, (texts, dimension); of length 1, or what is near is told by the inner product.
        other: As `exact`, of the same texts in the same order.
        k: How many neighbours; a text isn't its own.
    """
    import numpy as np

    true, seen = exact @ exact.T, exact @ other.T
    for likeness in (true, seen):
        np.fill_diagonal(likeness, -np.inf)
    found = np.argpartition(-seen, k, axis=1)[:, :k]
    farthest = -np.partition(-true, k - 1, axis=1)[:, k - 1 : k]
    tie = TIE * float(np.einsum("td,td->t", exact, exact).mean())
    return float((np.take_along_axis(true, found, axis=1) >= farthest - tie).mean())
