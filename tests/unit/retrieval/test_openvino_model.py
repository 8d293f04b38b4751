"""The compiled transformer gives what PyTorch's gives, or PyTorch computes."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_embedder

from tandem.config.machine import computes_bf16, read_processor
from tandem.retrieval import openvino_model
from tandem.retrieval.embedding import Embedder

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="there is no OpenVINO for this machine")

TEXTS = ["fox", "the quick brown fox jumps over the lazy dog", "a long one " * 9, "the default value", "dog " * 40]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture(scope="module")
def by_pytorch(model: Path) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)  # as where it isn't installed
        embedder = Embedder(model, 2)
        assert not compiled(embedder)
        return embedder.encode(TEXTS)


def compiled(embedder: Embedder) -> bool:
    return "forward" in vars(embedder._model[0].model)


@pytest.mark.parametrize("passes", [1, 2])
def test_it_gives_the_vectors_that_pytorch_gives(model: Path, by_pytorch: np.ndarray, passes: int) -> None:
    embedder = Embedder(model, 2, passes=passes)
    assert compiled(embedder)
    assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)


def test_it_computes_in_bf16_when_that_is_asked_for(model: Path, by_pytorch: np.ndarray) -> None:
    embedder = Embedder(model, 2, "bfloat16")
    # Elsewhere PyTorch emulates it: OpenVINO would compute in float32.
    assert compiled(embedder) == computes_bf16(read_processor(), cuda=False)
    vectors = embedder.encode(TEXTS)
    assert np.all(np.sum(vectors * by_pytorch, axis=1) > 0.999)
    assert not np.allclose(vectors, by_pytorch, atol=1e-6)


def test_many_callers_at_once_get_their_own_vectors(model: Path, by_pytorch: np.ndarray) -> None:
    embedder = Embedder(model, 2, passes=2)
    with ThreadPoolExecutor(8) as threads:
        for number, vectors in enumerate(threads.map(lambda at: embedder.encode([TEXTS[at % 5]]), range(100))):
            assert np.allclose(vectors[0], by_pytorch[number % 5], atol=1e-5)


@pytest.mark.parametrize(("factor", "said"), [(1.01, "0.01"), (float("nan"), "inf")])
def test_a_model_that_comes_out_otherwise_stays_with_pytorch(
    model: Path,
    by_pytorch: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    factor: float,
    said: str,
) -> None:
    whole = openvino_model._forward

    def wrong(*args: Any) -> Any:
        forward = whole(*args)

        def wrongly(**features: Any) -> Any:
            made = forward(**features)
            made.last_hidden_state *= factor
            return made

        return wrongly

    monkeypatch.setattr(openvino_model, "_forward", wrong)
    embedder = Embedder(model, 2)
    assert not compiled(embedder)
    assert f"OpenVINO's values differ by {said}" in caplog.text
    assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)


def test_a_model_that_cant_be_converted_stays_with_pytorch(
    model: Path, by_pytorch: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr("openvino.convert_model", refused)
    embedder = Embedder(model, 2)
    assert not compiled(embedder)
    assert "no such operation" in caplog.text
    assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)


def test_nobody_is_told_that_it_is_used(model: Path) -> None:
    assert compiled(Embedder(model, 2))
    assert sys.modules["openvino_telemetry"] is None
    from openvino.tools.ovc import telemetry_stub, telemetry_utils

    assert telemetry_utils.tm is telemetry_stub


def test_a_model_of_which_all_layers_are_read_stays_with_pytorch(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "all-layers")
    (config,) = [path for path in folder.rglob("config.json") if "model_type" in json.loads(path.read_text())]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"output_hidden_states": True}))
    assert not compiled(Embedder(folder, 2))
