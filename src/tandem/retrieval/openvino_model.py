"""An embedder compiled by OpenVINO, for processors: weights are laid out once, not at each call.

MiniLM on one core with AMX: a question of 12 words takes 5 ms in bf16 and 9.5 in float32; with PyTorch 17 and 13.

It is converted once, from its transformer to its pooling and what follows, and kept in the cache folder beside its
tokenizer and PyTorch's vectors of a few texts. Whoever opens it next imports neither PyTorch nor transformers: it takes
1 s where the conversion takes 14, and half the memory. At each opening it must give those vectors.

Not by sentence-transformers' own backend of that name: it needs optimum-intel, which wants transformers below 5.6.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import queue
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.uris import cache_path
from tandem.errors import ModelError
from tandem.retrieval.embedder_files import fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from tandem.retrieval.embedding import Dtype, Encode

logger = logging.getLogger(__name__)

_LAYOUT = "1"  # of what is kept: another one is converted anew
_CONVERTERS = ("openvino", "torch", "transformers", "sentence-transformers")
_GRAPH, _TOKENIZER, _EXPECTED = "model.xml", "tokenizer.json", "expected.npy"

# Of other lengths than what is tried: what a trace took for a constant shows in other shapes.
_TRACED = ("a text", "a text that is longer than the one before it")
_TRIED = ("", "short", "A third text, which is longer: ﬁ \t naïve.  ", "word " * 512)
_PROMPT = "a prompt: "
_SAME: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.1}  # a vector's difference, over its length
_PRECISION: dict[Dtype, str] = {"float32": "f32", "bfloat16": "bf16"}
# A tokenizer's name for what the graph calls so.
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


@dataclass(frozen=True)
class OpenVinoModel:
    """A converted embedder.

    Args:
        graph: OpenVINO's, from token ids to vectors.
        tokenizer: Cuts and pads texts as the graph wants them.
        expected: PyTorch's vectors of the texts that are tried, float32, (texts, dimension).
    """

    graph: Any
    tokenizer: Tokenizer
    expected: NDArray[np.float32]

    @property
    def dimension(self) -> int:
        """The vectors' length."""
        return int(self.expected.shape[1])

    @property
    def max_tokens(self) -> int:
        """How much of a text is read, with its prompt; 0: all of it."""
        return int((self.tokenizer.truncation or {}).get("max_length", 0))

    def computing_in(self, dtype: Dtype, *, passes: int, threads: int) -> Encode | None:
        """Compile it, and see whether it gives what PyTorch gives.

        Args:
            dtype: What is computed in. Pooling and what follows stay in float32.
            passes: Forward passes side by side.
            threads: Of each.

        Returns:
            What embeds; None if the vectors are others, and the log says so.
        """
        import openvino

        properties = {
            "INFERENCE_PRECISION_HINT": _PRECISION[dtype],
            "INFERENCE_NUM_THREADS": threads * passes,
            "NUM_STREAMS": passes,
            # Two replicas on one machine would be bound to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = openvino.Core().compile_model(self.graph, "CPU", properties)
        # A request computes for one caller at a time.
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(passes):
            requests.put(compiled.create_infer_request())
        encode = functools.partial(_encode, self.tokenizer, requests)
        difference = _difference(encode, self.expected)
        if not difference <= _SAME[dtype]:  # nor if it isn't a number
            logger.warning("the embedder is computed by PyTorch: OpenVINO's values differ by %.2g", difference)
            return None
        return encode


def open_openvino_model(model_path: Path) -> OpenVinoModel | None:
    """An embedder for OpenVINO: as it is kept, else converted and kept.

    Args:
        model_path: The embedder's folder.

    Returns:
        None where OpenVINO isn't installed or can't take the model; the log says why.

    Raises:
        ModelError: The folder isn't an embedder.
    """
    if find_spec("openvino") is None:
        return None
    # What would tell Intel of every import and conversion: without it OpenVINO tells nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    kept = _kept_at(model_path)
    try:
        if kept.is_dir():
            return _read(kept)
        converted = _convert(model_path)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a model can't be converted for, PyTorch computes it
        logger.warning("the embedder is computed by PyTorch: OpenVINO can't take it: %s", str(error)[:300])
        return None
    return _keep(converted, kept)


def _kept_at(model_path: Path) -> Path:
    made_by = [f"{name} {version(name)}" for name in _CONVERTERS]
    key = hashlib.sha256("\n".join([_LAYOUT, fingerprint(model_path), *made_by]).encode()).hexdigest()
    return cache_path() / "converted" / f"openvino-{key[:16]}"


def _read(folder: Path) -> OpenVinoModel:
    import numpy as np
    import openvino
    from tokenizers import Tokenizer

    return OpenVinoModel(
        openvino.Core().read_model(folder / _GRAPH),
        Tokenizer.from_file(str(folder / _TOKENIZER)),
        np.load(folder / _EXPECTED),
    )


def _convert(model_path: Path) -> OpenVinoModel:
    """By PyTorch, which the result holds on to.

    Raises:
        ModelError: The folder isn't an embedder.
        Exception: Whatever OpenVINO has against it.
    """
    import copy

    import openvino
    import torch

    from tandem.retrieval.pytorch_model import PyTorchModel

    by_pytorch = PyTorchModel(model_path, on_gpu=False)
    if not by_pytorch.pools_prompts:
        raise ValueError("what it pools depends on the prompt")
    features = by_pytorch.model.preprocess(list(_TRACED))
    inputs = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
    if unknown := inputs.keys() - _FIELDS.keys():
        raise ValueError(f"it reads {sorted(unknown)}")

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = by_pytorch.model

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = self.model(dict(zip(inputs, tensors, strict=True)))["sentence_embedding"]
            return vectors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(Whole().eval(), example_input=tuple(inputs.values()))
    for place, name in zip(graph.inputs, inputs, strict=True):
        place.get_tensor().set_names({name})
    return OpenVinoModel(graph, copy.deepcopy(by_pytorch.tokenizer), _try_out(by_pytorch.encode))


def _keep(converted: OpenVinoModel, target: Path) -> OpenVinoModel:
    """As it is read where it is kept: without PyTorch's weights."""
    import numpy as np
    import openvino

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".convert-"))
    except OSError as error:
        logger.warning("the embedder will be converted again each time: it can't be kept: %s", error)
        return converted
    try:
        openvino.save_model(converted.graph, scratch / _GRAPH, compress_to_fp16=False)
        converted.tokenizer.save(str(scratch / _TOKENIZER))
        np.save(scratch / _EXPECTED, converted.expected)
        scratch.rename(target)
    except (OSError, RuntimeError) as error:
        if not target.is_dir():  # else another process converted it meanwhile
            logger.warning("the embedder will be converted again each time: it can't be kept: %s", error)
            return converted
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _read(target)


def _encode(
    tokenizer: Tokenizer,
    requests: queue.SimpleQueue[Any],
    texts: Sequence[str],
    prompt: str,
    batch_size: int,
    *,
    question: bool,  # noqa: ARG001 - the graph is the same: what is tried tells
) -> NDArray[np.float32]:
    """See `Encode`."""
    import numpy as np

    # As sentence-transformers does it: little of a batch is padding.
    longest_first = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    vectors: NDArray[np.float32] | None = None
    request = requests.get()
    try:
        for begin in range(0, len(texts), batch_size):
            places = longest_first[begin : begin + batch_size]
            read = tokenizer.encode_batch_fast([prompt + texts[at] for at in places])
            names = [each.get_any_name() for each in request.model_inputs]
            inputs = {name: np.array([getattr(text, _FIELDS[name]) for text in read], dtype=np.int64) for name in names}
            # Shared: the next call writes there.
            found = request.infer(inputs, share_inputs=True, share_outputs=True)[0]
            if vectors is None:
                vectors = np.empty((len(texts), found.shape[1]), dtype=np.float32)
            vectors[places] = found
    finally:
        requests.put(request)
    assert vectors is not None  # nobody embeds nothing
    return vectors


def _try_out(encode: Encode) -> NDArray[np.float32]:
    import numpy as np

    *short, longest = _TRIED
    return np.concatenate(
        [
            encode(short, "", len(short), question=False),
            encode([longest], "", 1, question=False),
            encode(short[-1:], _PROMPT, 1, question=True),
        ]
    )


def _difference(encode: Encode, expected: NDArray[np.float32]) -> float:
    """The largest difference of a vector from PyTorch's, over its length."""
    import numpy as np

    made = _try_out(encode)
    return float((np.linalg.norm(made - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())
