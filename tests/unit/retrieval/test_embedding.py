from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_embedder

from tandem.errors import ModelError
from tandem.retrieval import embedding
from tandem.retrieval.embedder_files import configured_dimension
from tandem.retrieval.embedding import Dtype, Embedder, neighbours_kept


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "embedder")


def test_vectors_are_unit_float32_and_in_the_order_of_the_texts(model: Path) -> None:
    embedder = Embedder(model, batch_size=2)
    texts = ["the quick brown fox jumps over the lazy dog", "fox", "the default value", "dog", "a long one " * 9]
    vectors = embedder.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, embedder.dimension) == (5, configured_dimension(model))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # Batches are made by length: the rows must come back in our order all the same.
    for text, vector in zip(texts, vectors, strict=True):
        assert np.allclose(embedder.encode([text])[0], vector, atol=1e-5)
    assert embedder.encode([]).shape == (0, embedder.dimension)


def test_tokens_are_counted_while_others_encode(model: Path) -> None:
    embedder = Embedder(model, batch_size=8)
    texts = ["fox", "the quick brown fox jumps over the lazy dog", "a long one " * 400]
    vectors, tokens = embedder.encode(texts), embedder.count_tokens(texts)
    # What is longer than the model reads counts as far as it is read.
    assert embedder.count_tokens(texts[2:]) == embedder.max_tokens < embedder.count_tokens(texts[2:] * 2)

    def encode(_: int) -> None:
        assert np.allclose(embedder.encode(texts), vectors, atol=1e-5)

    def count(_: int) -> None:
        assert embedder.count_tokens(texts) == tokens

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, number) for number in range(200) for work in (encode, count)]:
            done.result()


def test_pickled_weights_are_not_even_tried(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors"):
        Embedder(folder, batch_size=2)


def test_a_folder_that_is_no_embedder_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="not an embedder"):
        Embedder(tmp_path, batch_size=2)


def test_weights_cut_short_are_said_so(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "short")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="not an embedder"):
        Embedder(folder, batch_size=2)


def test_in_bf16_vectors_are_nearly_the_same_and_of_length_one(model: Path) -> None:
    texts = ["the quick brown fox", "a lazy dog", "the default value"]
    exact = Embedder(model, batch_size=2).encode(texts)
    half = Embedder(model, batch_size=2, dtype="bfloat16").encode(texts)
    assert half.dtype == np.float32
    assert np.allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)
    assert not np.array_equal(half, exact)
    assert np.all(np.sum(half * exact, axis=1) > 0.999)


@pytest.mark.parametrize(
    ("computes", "samples", "kept", "computed_in"),
    [
        (True, 12, 0.0, "bfloat16"),
        (True, 12, 1.1, "float32"),  # others would be found
        (True, 11, 0.0, "float32"),  # too few to tell
        (False, 12, 0.0, "float32"),
    ],
)
def test_bf16_is_taken_where_it_keeps_the_neighbours_of_the_samples(
    model: Path, monkeypatch: pytest.MonkeyPatch, computes: bool, samples: int, kept: float, computed_in: Dtype
) -> None:
    monkeypatch.setattr(embedding, "computes_bf16", lambda processor, *, cuda: computes)
    monkeypatch.setattr(embedding, "RECALL_KEPT", kept)
    monkeypatch.setattr(embedding, "MEASURED_ON", 12)
    texts = [f"the quick brown fox {number}" for number in range(30)]
    embedder = Embedder(model, 2, "auto", passes=2, samples=texts[:samples])
    assert embedder.dtype == computed_in
    assert np.array_equal(embedder.encode(texts), Embedder(model, 2, computed_in, passes=2).encode(texts))


def test_neighbours_are_kept_by_equal_vectors_and_lost_by_others() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert neighbours_kept(vectors, vectors, 10) == 1.0
    assert neighbours_kept(vectors, vectors[::-1].copy(), 10) < 0.2
    # One of four, with k = 1: its nearest changes.
    plane = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], dtype=np.float32)
    moved = plane.copy()
    moved[1] = [-1, 0]
    assert neighbours_kept(plane, moved, 1) == 0.75


def test_of_two_neighbours_as_near_either_will_do() -> None:
    def at(*degrees: float) -> np.ndarray:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    exact = at(0, 10, -10.1, 180)
    for moved in (10.2, 14):  # the first text's nearest becomes the third, which was as near but for 0.0003
        assert neighbours_kept(exact, at(0, moved, -10.1, 180), 1) == 1.0
    assert neighbours_kept(10 * exact, 10 * at(0, 10.2, -10.1, 180), 1) == 1.0
    # By 0.007 farther for the first, and by as much for the last, whose nearest the second becomes.
    assert neighbours_kept(at(0, 10, -12, 180), at(0, 14, -12, 180), 1) == 0.5


def test_passes_side_by_side_give_the_vectors_of_one_after_another(model: Path) -> None:
    texts = [f"number {n} of the default values " + "and more " * (n % 7) for n in range(41)]
    alone = Embedder(model, batch_size=4).encode(texts)
    together = Embedder(model, batch_size=4, passes=3).encode(texts)
    assert together.shape == alone.shape
    assert np.allclose(together, alone, atol=1e-5)
    assert Embedder(model, batch_size=4, passes=3).encode([]).shape == (0, alone.shape[1])
