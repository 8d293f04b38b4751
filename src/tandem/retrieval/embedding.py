"""Texts to vectors, by a sentence-transformers model."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tandem.artifacts.manifest import sha256_file
from tandem.config.machine import computes_bf16, cores, read_processor
from tandem.errors import ModelError
from tandem.retrieval.openvino_model import compile_transformer
from tandem.retrieval.prompts import CONFIGURATION, Prompts, find_prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers.base.modules import Transformer

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
# Of likenesses of vectors of length 1.
TIE = 1e-3
# bf16 is taken where it costs less than half a percent of recall.
RECALL_AT = 10
RECALL_KEPT = 0.995
MEASURED_ON = 128  # texts
# Tokens to whose multiple a pass is padded: what oneDNN prepares for a shape and the C library keeps of it stays in the
# process, a gigabyte over the first hundred batches of many lengths. It takes no longer (MiniLM, 48 words).
LENGTH_STEP = 8
_IDENTITY = (
    "*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
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
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer

        try:
            self._model: Any = SentenceTransformer(
                str(model_path),
                device="cuda" if read_processor().has_gpu else "cpu",
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
        if self.prompts != Prompts():
            logger.warning("embedding with %r before questions and %r before passages", *astuple(self.prompts))
        self.max_tokens = int(self._model.max_seq_length or 0)
        self._batch_size = batch_size
        self._unit = unit
        on_processor = self._model.device.type == "cpu"
        self._passes = passes if on_processor else 1
        self._compilable = on_processor and isinstance(self._model[0], Transformer)
        # Where pooling leaves out the prompt, sentence-transformers takes the padding after it for a part of it.
        pools_prompts = all(getattr(module, "include_prompt", True) for module in self._model.modules())
        if isinstance(self._model[0], Transformer) and pools_prompts:
            _pad_in_steps(self._model[0], self.max_tokens)
        # The same threads all the time: PyTorch keeps memory for each that it ever computed in.
        self._threads = ThreadPoolExecutor(passes, initializer=torch.set_num_threads, initargs=(1,))
        self.dimension = int(self._model.get_embedding_dimension())
        # A tokenizer keeps padding and truncation as its state, and changes them at a call that wants others; a change
        # under another thread's call fails or spoils it. So whoever counts has one of its own, and these first texts
        # set the model's to what all later ones want.
        self.dtype: Dtype = "float32"
        self._autocast = False
        for question in (False, True):
            self._pass([""], question)
        self._counting: Any = copy.deepcopy(self._model.tokenizer.backend_tokenizer)
        self._counting.no_padding()
        self._counting.no_truncation()
        if self.max_tokens:
            self._counting.enable_truncation(self.max_tokens)
        if dtype != "auto":
            self._compute_in(dtype)
        elif len(samples) < MEASURED_ON or not computes_bf16(read_processor(), cuda=not on_processor):
            self._compute_in("float32")
        else:
            self._measure_bf16(samples[:MEASURED_ON])

    def _compute_in(self, dtype: Dtype) -> None:
        self.dtype = dtype
        bf16 = dtype == "bfloat16"
        # Where the processor has no bf16, OpenVINO computes in float32 without a word, and PyTorch emulates it.
        compilable = self._compilable and (not bf16 or computes_bf16(read_processor(), cuda=False))
        compiled = compilable and _compiled(self._model[0], bf16=bf16, passes=self._passes)
        self._autocast = bf16 and not compiled

    def _measure_bf16(self, samples: Sequence[str]) -> None:
        # Nothing is compiled yet: for so few texts PyTorch's float32 is soon done, and serves as well to compare with.
        exact = self.encode(samples)
        self._compute_in("bfloat16")
        if not _keeps_recall(exact, self.encode(samples)):
            self._compute_in("float32")

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
        import numpy as np
        import torch

        encode = self._model.encode_query if question else self._model.encode_document
        # PyTorch's bf16: what lies between the products stays in float32. With all of it in bf16 one neighbour in 150
        # is another one, with this one in 250, and it takes but 6 % less time (MiniLM, 512 texts, nearest 10).
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._autocast):
            vectors = encode(
                list(texts),
                prompt=self.prompts.query if question else self.prompts.passage,
                batch_size=self._batch_size,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return np.asarray(vectors, dtype=np.float32)

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


def _compiled(module: Transformer, *, bf16: bool, passes: int) -> bool:
    import torch

    if passes > 1:
        return compile_transformer(module, bf16=bf16, passes=passes, threads=1)
    # Two callers, where there are cores: a question must not wait for somebody's long texts.
    threads = torch.get_num_threads()
    return compile_transformer(module, bf16=bf16, passes=2 if 2 * threads <= cores() else 1, threads=threads)


def _pad_in_steps(module: Transformer, max_tokens: int) -> None:
    # A length that isn't such a multiple may be all that the model has positions for.
    if max_tokens % LENGTH_STEP == 0:
        text = {"pad_to_multiple_of": LENGTH_STEP} | module.processing_kwargs.get("text", {})
        module.processing_kwargs = {**module.processing_kwargs, "text": text}


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
