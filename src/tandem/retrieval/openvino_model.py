"""An embedder's transformer compiled by OpenVINO, for processors: weights are laid out once, not at each call.

MiniLM on one core with AMX: a question of 12 words takes 5 ms in bf16 and 9.5 in float32; with PyTorch 17 and 13.

Not by sentence-transformers' own backend of that name: it needs optimum-intel, which wants transformers below 5.6.
"""

from __future__ import annotations

import inspect
import logging
import queue
import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentence_transformers.base.modules import Transformer
    from torch import Tensor

logger = logging.getLogger(__name__)

_TAKEN = {"method": "forward", "method_output_name": "last_hidden_state"}

# Of other lengths than what is tried: what a trace took for a constant shows in other shapes.
_TRACED = ("a text", "a text that is longer than the one before it")
_LONGEST = 512  # words that are tried at most
_SAME = {"f32": 1e-3, "bf16": 0.1}  # a token's difference, over its length


def compile_transformer(module: Transformer, *, bf16: bool, passes: int, threads: int) -> bool:
    """Let a module's forward pass be computed by OpenVINO, if it is installed and gives what PyTorch gives.

    A module that is compiled already is compiled anew.

    Args:
        module: sentence-transformers' first module, on a processor.
        bf16: Compute in it; else in float32.
        passes: Forward passes side by side.
        threads: Of each.

    Returns:
        Whether it is; if not PyTorch computes it, and the log says why.
    """
    vars(module.model).pop("forward", None)
    if find_spec("openvino") is None:
        return False
    if module.modality_config.get("text") != _TAKEN or getattr(module.model.config, "output_hidden_states", False):
        logger.warning("the embedder is computed by PyTorch: more than its last hidden states is read")
        return False
    # What would tell Intel of every import and conversion: without it OpenVINO tells nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    precision = "bf16" if bf16 else "f32"
    properties = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads * passes,
        "NUM_STREAMS": passes,
        # Two replicas on one machine would be bound to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        import openvino

        example = _inputs(module, _TRACED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(module.model, example_input=example)
        forward = _forward(openvino.Core().compile_model(converted, "CPU", properties), list(example), passes)
        difference = _difference(module, forward)
    except Exception as error:  # noqa: BLE001 - whatever a model can't be converted for, PyTorch computes it
        logger.warning("the embedder is computed by PyTorch: OpenVINO can't convert it: %s", str(error)[:300])
        return False
    if not difference <= _SAME[precision]:  # nor if it isn't a number
        logger.warning("the embedder is computed by PyTorch: OpenVINO's values differ by %.2g", difference)
        return False
    module.model.forward = forward
    return True


def _inputs(module: Transformer, texts: tuple[str, ...]) -> dict[str, Tensor]:
    import torch

    known = inspect.signature(module.model.forward).parameters
    features = module.preprocess(list(texts))
    return {name: value for name, value in features.items() if isinstance(value, torch.Tensor) and name in known}


def _forward(compiled: Any, names: list[str], passes: int) -> Callable[..., Any]:
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    # A request computes for one caller at a time.
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(passes):
        requests.put(compiled.create_infer_request())

    def forward(**features: Any) -> BaseModelOutput:
        request = requests.get()
        try:
            inputs = {name: features[name].numpy() for name in names}
            found = request.infer(inputs, share_inputs=True, share_outputs=True)[0]
            states = torch.from_numpy(found).clone()  # the next call writes there
        finally:
            requests.put(request)
        return BaseModelOutput(last_hidden_state=states)

    return forward


def _difference(module: Transformer, forward: Callable[..., Any]) -> float:
    """The largest difference of a token's vector from PyTorch's, over its length; padding is left out."""
    import torch

    longest = "word " * min(module.max_seq_length or _LONGEST, _LONGEST)
    features = _inputs(module, (longest, "short", "a third text"))
    with torch.inference_mode():
        expected = module.model(**features, return_dict=True).last_hidden_state
        made = forward(**features).last_hidden_state
    if not made.isfinite().all():
        return float("inf")
    real = features["attention_mask"].bool()
    return float(((made - expected)[real].norm(dim=-1) / expected[real].norm(dim=-1)).max())
