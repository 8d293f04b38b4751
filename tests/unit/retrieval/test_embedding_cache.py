from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from tandem.retrieval import embedding_cache
from tandem.retrieval.embedding import Dtype
from tandem.retrieval.embedding_cache import EmbeddingCache, open_caches

TEXTS = [f"text {number}" for number in range(40)]


def vectors(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), hash(text) % 97, 0.1] for text in texts], dtype=np.float32)


def open_cache(root: Path, embedder: str = "a" * 64, dtype: Dtype = "float32", **more: Any) -> EmbeddingCache:
    return EmbeddingCache(root, embedder, dtype, **more)


def assert_has(cache: EmbeddingCache, texts: list[str]) -> None:
    found = cache.get([*texts, "unknown"])
    assert set(found) == set(texts)
    for text, vector in zip(texts, vectors(texts), strict=True):
        np.testing.assert_array_equal(found[text], vector)


def test_what_was_put_is_there_bit_for_bit_for_the_next_one(tmp_path: Path) -> None:
    assert open_cache(tmp_path).get(TEXTS) == {}
    open_cache(tmp_path).put(TEXTS[:7], vectors(TEXTS[:7]))
    open_cache(tmp_path).put(TEXTS[7:9], vectors(TEXTS[7:9]))
    assert_has(open_cache(tmp_path), TEXTS[:9])


def test_what_would_be_embedded_otherwise_is_cached_apart(tmp_path: Path) -> None:
    open_cache(tmp_path).put(TEXTS, vectors(TEXTS))
    assert open_cache(tmp_path, "b" * 64).get(TEXTS) == {}
    assert open_cache(tmp_path, dtype="bfloat16").get(TEXTS) == {}
    assert open_cache(tmp_path, unit=False).get(TEXTS) == {}
    assert open_cache(tmp_path, prompt="text").get(TEXTS) == {}
    prompted = open_cache(tmp_path, prompt="te")
    prompted.put(TEXTS[:3], vectors(TEXTS[:3]))
    assert_has(open_cache(tmp_path, prompt="te"), TEXTS[:3])
    # Together they are the same text, but where the prompt ends matters where it isn't pooled.
    assert open_cache(tmp_path, prompt="tete").get([text.removeprefix("te") for text in TEXTS]) == {}
    assert_has(open_cache(tmp_path), TEXTS)


def test_what_may_be_of_either_type_is_looked_for_in_both_and_in_float32_first(tmp_path: Path) -> None:
    assert list(open_caches(tmp_path, "a" * 64, "auto")) == ["float32", "bfloat16"]
    assert list(open_caches(tmp_path, "a" * 64, "bfloat16")) == ["bfloat16"]
    assert not list(tmp_path.iterdir())  # nothing is made where nothing is put
    open_caches(tmp_path, "a" * 64, "bfloat16", unit=False, prompt="p")["bfloat16"].put(TEXTS, vectors(TEXTS))
    found = open_caches(tmp_path, "a" * 64, "auto", unit=False, prompt="p")
    assert_has(found["bfloat16"], TEXTS)
    assert found["float32"].get(TEXTS) == {}


def test_few_row_groups_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "ROW_GROUP", 4)
    monkeypatch.setattr(embedding_cache, "GROUPS_IN_MEMORY", 2)
    open_cache(tmp_path).put(TEXTS, vectors(TEXTS))
    cache = open_cache(tmp_path)
    assert_has(cache, TEXTS)
    assert len(cache._groups) == 2


def test_many_files_become_one_with_each_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_cache, "COMPACT_ABOVE", 3)
    monkeypatch.setattr(embedding_cache, "ROW_GROUP", 8)
    for begin in range(0, 40, 5):
        part = TEXTS[begin : begin + 7]  # they overlap
        open_cache(tmp_path).put(part, vectors(part))
    open_cache(tmp_path).compact()
    (path,) = tmp_path.rglob("*.parquet")
    assert parquet.ParquetFile(path).num_row_groups == -(-len(TEXTS) // 8)
    cache = open_cache(tmp_path)
    assert len(cache._keys) == len(TEXTS)
    assert_has(cache, TEXTS)


@pytest.mark.parametrize("damage", [b"", b"PAR1 and nothing else"])
def test_a_broken_file_is_only_a_loss_of_time(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    open_cache(tmp_path).put(TEXTS[:5], vectors(TEXTS[:5]))
    (broken,) = tmp_path.rglob("*.parquet")
    open_cache(tmp_path).put(TEXTS[5:], vectors(TEXTS[5:]))
    broken.write_bytes(damage)
    assert_has(open_cache(tmp_path), TEXTS[5:])
    assert broken.name in caplog.text


def test_a_file_that_vanishes_or_breaks_while_it_is_used_is_a_miss(tmp_path: Path) -> None:
    open_cache(tmp_path).put(TEXTS, vectors(TEXTS))
    cache = open_cache(tmp_path)
    (path,) = tmp_path.rglob("*.parquet")
    path.unlink()
    assert cache.get(TEXTS) == {}


def test_a_write_cut_short_leaves_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetWriter.write_table", fail)
        with pytest.raises(KeyboardInterrupt):
            open_cache(tmp_path).put(TEXTS, vectors(TEXTS))
    assert list(tmp_path.rglob("*.parquet")) == []
    open_cache(tmp_path).put(TEXTS, vectors(TEXTS))
    assert_has(open_cache(tmp_path), TEXTS)
