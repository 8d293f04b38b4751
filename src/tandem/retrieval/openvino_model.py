"""An embedder compiled by OpenVINO, for processors: weights are laid out once, not at each call.

MiniLM on one core with AMX: a question of 12 words takes 5 ms in bf16 and 9.5 in float32; with PyTorch 17 and 13.

It is converted once, from its transformer to its pooling and what follows, and kept in the cache folder beside its
tokenizer and PyTorch's vectors of a few texts. Whoever opens it next imports neither PyTorch nor transformers: it takes
1 s where the conversion takes 14, and the process 266 MiB where it had 878. At each opening it must give those vectors.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.uris import cache_path
from tandem.errors import ModelError
from tandem.retrieval.embedder_files import fingerprint
from tandem.retrieval.pytorch_model import LENGTH_STEP, PyTorchModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from tandem.retrieval.embedding import Dtype, Encode

logger = logging.getLogger(__name__)

_VERSION = "1"  # of how it is converted here
_MADE_BY = ("openvino", "torch", "transformers", "sentence-transformers", "tokenizers")
_GRAPH, _TOKENIZER, _EXPECTED = "model.xml", "tokenizer.json", "expected.npy"

# Of other lengths than what is tried: what a trace took for a constant shows in other shapes.
_TRACED = ("a text", "a text that is longer than the one before it")
_TRIED = ("", "short", "A third text, which is longer: ﬁ \t naïve.  ", " ".join(map(str, range(512))))
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
            dtype: What is computed in. What follows the last product of matrices, for most models the pooling, stays in
                float32.
            passes: Forward passes side by side.
            threads: Of each.

        Returns:
            What embeds; None if the vectors are others or it can't be compiled, and the log says so.
        """
        try:
            encode = self._compile(dtype, passes, threads)
            difference = _difference(encode, self.expected)
        except Exception as error:  # noqa: BLE001 - whatever it can't be computed for, PyTorch computes it
            _refuse(error)
            return None
        if not difference <= _SAME[dtype]:  # nor if it isn't a number
            _refuse(f"its values differ by {difference:.2g}")
            return None
        return encode

    def _compile(self, dtype: Dtype, passes: int, threads: int) -> Encode:
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
        names = [each.get_any_name() for each in compiled.inputs]
        return functools.partial(_encode, self.tokenizer, names, requests)


def open_openvino_model(model_path: Path, load: Callable[[], PyTorchModel]) -> OpenVinoModel | None:
    """An embedder for OpenVINO: as it is kept, else converted and kept.

    Args:
        model_path: The embedder's folder.
        load: Loads it, on a processor, to be converted.

    Returns:
        None where OpenVINO isn't installed or can't take the model; the log says why.

    Raises:
        ModelError: The folder isn't an embedder.
    """
    if find_spec("openvino") is None:
        return None
    # What would tell Intel of every import and conversion: without it OpenVINO tells nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        kept = _kept_at(model_path)
        return _read_kept(kept) or _keep(_convert(load()), kept)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a model can't be converted for, PyTorch computes it
        _refuse(error)
        return None


def _refuse(why: object) -> None:
    logger.warning("the embedder is computed by PyTorch: OpenVINO can't take it: %s", str(why)[:300])


def _kept_at(model_path: Path) -> Path:
    made_by = [f"{name} {version(name)}" for name in _MADE_BY]
    tried = repr((_TRACED, _TRIED, _PROMPT, LENGTH_STEP))
    key = hashlib.sha256("\n".join([_VERSION, fingerprint(model_path), tried, *made_by]).encode()).hexdigest()
    return cache_path() / "converted" / f"openvino-{key[:16]}"


def _read_kept(folder: Path) -> OpenVinoModel | None:
    if not folder.is_dir():
        return None
    try:
        return _read(folder)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it can be made again
        logger.warning("the converted embedder in %s can't be read, and is made again: %s", folder, str(error)[:300])
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _read(folder: Path) -> OpenVinoModel:
    import numpy as np
    import openvino
    from tokenizers import Tokenizer

    return OpenVinoModel(
        openvino.Core().read_model(folder / _GRAPH),
        Tokenizer.from_file(str(folder / _TOKENIZER)),
        np.load(folder / _EXPECTED),
    )


def _convert(by_pytorch: PyTorchModel) -> OpenVinoModel:
    """The result holds on to PyTorch's weights.

    Raises:
        Exception: Whatever OpenVINO has against it; it gives other vectors.
    """
    import openvino
    import torch

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
            return vectors[:, : by_pytorch.dimension]  # cut where its configuration says so

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(Whole().eval(), example_input=tuple(inputs.values()))
    for place, name in zip(graph.inputs, inputs, strict=True):
        place.get_tensor().set_names({name})
    converted = OpenVinoModel(graph, by_pytorch.settled_tokenizer(), _try_out(by_pytorch.encode))
    difference = _difference(converted._compile("float32", passes=1, threads=1), converted.expected)
    if not difference <= _SAME["float32"]:
        raise ValueError(f"its values differ by {difference:.2g}")
    return converted


def _keep(converted: OpenVinoModel, target: Path) -> OpenVinoModel:
    """As it is read where it is kept: without PyTorch's weights."""
    import numpy as np
    import openvino

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
            whole = Path(scratch) / "whole"  # a temporary folder is its owner's alone, and this one everybody's
            whole.mkdir()
            openvino.save_model(converted.graph, whole / _GRAPH, compress_to_fp16=False)
            converted.tokenizer.save(str(whole / _TOKENIZER))
            np.save(whole / _EXPECTED, converted.expected)
            _read(whole)  # a full disk isn't always told of
            try:
                whole.rename(target)
            except OSError:
                if not target.is_dir():  # else another process converted it meanwhile
                    raise
        return _read(target)
    except Exception as error:  # noqa: BLE001 - each library has its own for a disk that is full or read-only
        logger.warning("the embedder will be converted again each time: it can't be kept: %s", str(error)[:300])
        return converted


def _encode(
    tokenizer: Tokenizer,
    names: list[str],
    requests: queue.SimpleQueue[Any],
    texts: Sequence[str],
    prompt: str,
    batch_size: int,
    *,
    question: bool,  # noqa: ARG001 - both are computed alike, else it isn't converted
) -> NDArray[np.float32]:
    """See `Encode`."""
    import numpy as np

    # As sentence-transformers does it: little of a batch is padding.
    longest_first = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    places = [longest_first[begin : begin + batch_size] for begin in range(0, len(texts), batch_size)]
    parts = []
    for batch in places:
        read = tokenizer.encode_batch_fast([prompt + texts[at] for at in batch])
        inputs = {name: np.array([getattr(text, _FIELDS[name]) for text in read], dtype=np.int64) for name in names}
        request = requests.get()
        try:
            # Shared: the next call writes there.
            parts.append(request.infer(inputs, share_inputs=True, share_outputs=True)[0].copy())
        finally:
            requests.put(request)
    vectors = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
    vectors[np.concatenate(places)] = np.concatenate(parts)
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
    if made.shape != expected.shape:
        return float("inf")
    return float((np.linalg.norm(made - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())
