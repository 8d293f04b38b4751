"""The compiled embedder gives what PyTorch's gives, or PyTorch computes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import write_embedder

from tandem.config.machine import computes_bf16, read_processor
from tandem.errors import ModelError
from tandem.retrieval import embedding, openvino_model
from tandem.retrieval.embedding import Embedder
from tandem.retrieval.openvino_model import open_openvino_model
from tandem.retrieval.prompts import Prompts
from tandem.retrieval.pytorch_model import PyTorchModel

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="there is no OpenVINO for this machine")

TEXTS = ["fox", "the quick brown fox jumps over the lazy dog", "a long one " * 9, "the default value", "dog " * 140]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


@pytest.fixture(autouse=True)
def on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(read_processor(), cuda_capability=None)
    monkeypatch.setattr(embedding, "read_processor", lambda: here)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


@pytest.fixture(scope="module")
def by_pytorch(model: Path) -> np.ndarray:
    vectors = PyTorchModel(model, on_gpu=False).encode(TEXTS, "", 2, question=False)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that PyTorch loads."""
    loaded: list[Path] = []
    load = PyTorchModel.__init__

    def counted(self: PyTorchModel, model_path: Path, *, on_gpu: bool) -> None:
        loaded.append(model_path)
        load(self, model_path, on_gpu=on_gpu)

    monkeypatch.setattr(PyTorchModel, "__init__", counted)
    return loaded


def compiled(embedder: Embedder) -> bool:
    return embedder._by_pytorch is None


@pytest.mark.parametrize("passes", [1, 2])
def test_it_gives_the_vectors_that_pytorch_gives(model: Path, by_pytorch: np.ndarray, passes: int) -> None:
    for _ in ("converted", "read"):
        embedder = Embedder(model, 2, passes=passes)
        assert compiled(embedder)
        assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)
        assert (embedder.dimension, embedder.max_tokens) == (32, 128)


def test_it_is_converted_once(model: Path, tmp_path: Path, cache: Path, loads: list[Path]) -> None:
    for path in (model, model, shutil.copytree(model, tmp_path / "the same elsewhere")):
        Embedder(path, 2)
    assert loads == [model]
    assert len(list(cache.iterdir())) == 1


def test_other_weights_are_another_conversion(model: Path, tmp_path: Path, loads: list[Path]) -> None:
    Embedder(model, 2)
    other = write_embedder(tmp_path / "other", hidden=16)
    assert Embedder(other, 2).dimension == 16
    assert loads == [model, other]


@pytest.mark.skipif(read_processor().has_gpu, reason="PyTorch computes on the GPU")
def test_once_converted_it_needs_neither_pytorch_nor_transformers(model: Path, by_pytorch: np.ndarray) -> None:
    Embedder(model, 2)
    code = (
        "import json, sys; from pathlib import Path\n"
        "from tandem.retrieval.embedding import Embedder\n"
        "vectors = Embedder(Path(sys.argv[1]), 2, passes=2).encode(json.loads(sys.argv[2]))\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers'} & sys.modules.keys()\n"
        "print(json.dumps([vectors.tolist(), sorted(heavy)]))"
    )
    command = [sys.executable, "-c", code, str(model), json.dumps(TEXTS)]
    vectors, heavy = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert heavy == []
    assert np.allclose(vectors, by_pytorch, atol=1e-5)


def test_where_nothing_can_be_kept_it_is_converted_each_time(
    model: Path, by_pytorch: np.ndarray, cache: Path, loads: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    for _ in range(2):
        embedder = Embedder(model, 2)
        assert compiled(embedder)
        assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)
    assert loads == [model] * 2
    assert caplog.text.count("it can't be kept") == 2


def test_two_that_convert_at_once_keep_one(model: Path, by_pytorch: np.ndarray, cache: Path) -> None:
    others: list[Embedder] = []

    def load() -> PyTorchModel:
        others.append(Embedder(model, 2))  # converts it meanwhile
        return PyTorchModel(model, on_gpu=False)

    assert open_openvino_model(model, load)
    assert len(list(cache.iterdir())) == 1
    assert np.allclose(others[0].encode(TEXTS), by_pytorch, atol=1e-5)


def test_of_two_types_that_openvino_computes_in_one_pytorch_isnt_asked_for_the_other(
    model: Path, by_pytorch: np.ndarray, monkeypatch: pytest.MonkeyPatch, loads: list[Path]
) -> None:
    Embedder(model, 2)
    monkeypatch.setattr(embedding, "computes_bf16", lambda *_, **__: True)
    monkeypatch.setattr(embedding, "MEASURED_ON", 5)
    monkeypatch.setitem(openvino_model._SAME, "bfloat16", -1.0)  # nothing will do
    embedder = Embedder(model, 2, "auto", samples=TEXTS)
    assert (embedder.dtype, loads) == ("float32", [model])
    assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)


def test_questions_and_passages_that_are_cut_otherwise_are_right_from_many_threads(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "short-questions")
    with_short_questions(folder)
    embedder = Embedder(folder, 2)
    expected = {question: embedder.encode(TEXTS, question=question) for question in (True, False)}
    assert not np.allclose(expected[True], expected[False], atol=1e-3)

    def right(number: int) -> bool:
        question = number % 2 == 0
        return np.allclose(embedder.encode(TEXTS, question=question), expected[question], atol=1e-5)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(right, range(40)))


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


@pytest.mark.parametrize(("factor", "said"), [(1.01, "differ by 0.01"), (float("nan"), "differ by nan")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "auto"])
def test_a_model_that_comes_out_otherwise_stays_with_pytorch_in_every_type(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cache: Path,
    dtype: Any,
    factor: float,
    said: str,
) -> None:
    # In bf16 so little would pass for rounding.
    monkeypatch.setattr(embedding, "computes_bf16", lambda *_, **__: True)
    monkeypatch.setattr(embedding, "MEASURED_ON", 12)
    right = openvino_model._encode
    monkeypatch.setattr(openvino_model, "_encode", lambda *args, **named: factor * right(*args, **named))
    embedder = Embedder(model, 2, dtype, samples=[f"number {number}" for number in range(12)])
    assert not compiled(embedder)
    assert said in caplog.text
    assert not cache.exists()
    expected = PyTorchModel(model, on_gpu=False).computing_in(embedder.dtype)(TEXTS, "", 2, question=False)
    assert np.allclose(embedder.encode(TEXTS), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("step", ["openvino.convert_model", "openvino.Core.compile_model"])
def test_a_model_that_openvino_refuses_stays_with_pytorch(
    model: Path,
    by_pytorch: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    loads: list[Path],
    step: str,
    kept: bool,
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operation")

    if kept:
        Embedder(model, 2)
    monkeypatch.setattr(step, refused)
    embedder = Embedder(model, 2, passes=2)
    assert compiled(embedder) == (kept and "convert" in step)
    assert compiled(embedder) or "no such operation" in caplog.text
    assert loads == [model] * (2 if kept and "compile" in step else 1)
    assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "tokenizer.json", "expected.npy"])
def test_a_conversion_that_cant_be_read_is_made_again(
    model: Path, by_pytorch: np.ndarray, cache: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    Embedder(model, 2)
    (file,) = cache.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    embedder = Embedder(model, 2)
    assert "is made again" in caplog.text
    assert compiled(embedder)
    assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)
    caplog.clear()
    assert np.allclose(Embedder(model, 2).encode(TEXTS), by_pytorch, atol=1e-5)
    assert caplog.text == ""


def test_whoever_shares_the_cache_can_read_it(model: Path, cache: Path) -> None:
    Embedder(model, 2)
    (kept,) = cache.iterdir()
    (cache.parent / "other").mkdir()
    assert kept.stat().st_mode == (cache.parent / "other").stat().st_mode


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_token_types(folder: Path) -> None:
    change(folder / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def with_a_dense_layer(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    whole = SentenceTransformer(str(folder), device="cpu")
    SentenceTransformer(modules=[whole[0], whole[1], Dense(32, 16)], device="cpu").save_pretrained(str(folder))


def pooled_by_its_last_token(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", pooling_mode="lasttoken")
    change(folder / "tokenizer_config.json", padding_side="left")


def cut_to_eight_numbers(folder: Path) -> None:
    change(folder / "config_sentence_transformers.json", truncate_dim=8)


def with_lower_case(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    change(folder / "tokenizer.json", normalizer=tokenizer["normalizer"] | {"lowercase": False})
    change(folder / "sentence_bert_config.json", do_lower_case=True)


def with_short_questions(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", query_length=8)


def with_short_passages(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", document_length=8)


def with_short_texts(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", query_length=8, document_length=8)


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        (with_token_types, True),
        (with_a_dense_layer, True),
        (pooled_by_its_last_token, True),
        (cut_to_eight_numbers, True),
        (with_lower_case, True),
        (with_short_questions, False),
        (with_short_passages, False),
        (with_short_texts, True),
    ],
)
def test_embedders_of_every_kind_give_what_sentence_transformers_gives(
    model: Path, tmp_path: Path, kind: Callable[[Path], None], taken: bool
) -> None:
    folder = shutil.copytree(model, tmp_path / "other")
    kind(folder)
    # PyTorch's side is asked one kind of text after the other, by one thread: that is how it is right.
    peer = PyTorchModel(folder, on_gpu=False)
    texts = [text.upper() for text in TEXTS]
    expected = {kind: peer.encode(texts, "a prompt: ", 2, question=kind) for kind in (True, False)}
    for _ in ("converted", "read"):
        embedder = Embedder(folder, 2, unit=False, prompts=Prompts("a prompt: ", "a prompt: "))
        assert compiled(embedder) == taken
        assert embedder.dimension == expected[True].shape[1]
        for question, vectors in expected.items():
            assert np.allclose(embedder.encode(texts, question=question), vectors, atol=1e-5)


def test_where_it_isnt_installed_pytorch_computes(
    model: Path, by_pytorch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_model, "find_spec", lambda _: None)
    embedder = Embedder(model, 2, passes=2)
    assert not compiled(embedder)
    assert np.allclose(embedder.encode(TEXTS), by_pytorch, atol=1e-5)


def test_what_is_pooled_without_its_prompt_stays_with_pytorch(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(model, tmp_path / "without-prompt")
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    assert not compiled(Embedder(folder, 2))
    assert "depends on the prompt" in caplog.text


def test_a_folder_that_is_no_embedder_is_not_left_to_pytorch(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an embedder"):
        open_openvino_model(tmp_path, lambda: PyTorchModel(tmp_path, on_gpu=False))


def test_nobody_is_told_that_it_is_used(model: Path) -> None:
    assert compiled(Embedder(model, 2))
    assert sys.modules["openvino_telemetry"] is None
    from openvino.tools.ovc import telemetry_stub, telemetry_utils

    assert telemetry_utils.tm is telemetry_stub
