from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny_models import write_embedder

from tandem.retrieval import embedding
from tandem.retrieval.chunk_ids import pack, unpack
from tandem.retrieval.chunking import Chunk
from tandem.retrieval.embedder_files import fingerprint
from tandem.retrieval.embedding import Dtype, Embedder
from tandem.retrieval.embedding_cache import EmbeddingCache
from tandem.retrieval.indexing import Embed, gather_files, identity_settings, plan_changes
from tandem.retrieval.prompts import Prompts
from tandem.specs.index import ChunkSpec, EmbedderSpec, IndexSpec, SourceSpec, VectorIndexSpec


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the stage says of its process holds for no other test."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_only_what_is_missing_is_embedded_and_what_is_gone_is_deleted() -> None:
    a, b, c, y, z = sorted(str(uuid.uuid4()) for _ in range(5))
    plan = plan_changes(pack([a, b, c]), [b, c, z, y])
    assert (list(unpack(plan.embed)), list(unpack(plan.delete)), plan.keep) == ([a], [y, z], 2)
    again = plan_changes(pack([a, b, c]), [a, b, c])
    assert (len(again.embed), len(again.delete), again.keep) == (0, 0, 3)


def test_two_files_of_one_name_are_a_fault_and_the_same_file_twice_is_not(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "readme.md").write_text("x")
    source = SourceSpec(uri="x")
    files, faults = gather_files((source, str(tmp_path / folder)) for folder in ("a", "a", "b"))
    assert [each.file.path for each in files] == [str(tmp_path / "a" / "readme.md")]
    (fault,) = faults
    assert fault.file == str(tmp_path / "b" / "readme.md")
    assert "common folder" in fault.reason


def test_whatever_changes_what_is_stored_changes_the_identity() -> None:
    spec = IndexSpec(kind="index", name="a", sources=("x",))  # type: ignore[arg-type]
    same = IndexSpec(kind="index", name="b", collection="c", sources=("y",))  # type: ignore[arg-type]
    assert identity_settings(spec, "e") == identity_settings(same, "e")
    others = [spec.model_copy(update={"sparse": False}), spec.model_copy(update={"chunk": ChunkSpec(tokens=64)})]
    others.append(spec.model_copy(update={"vectors": VectorIndexSpec(distance="dot")}))
    chosen: list[dict[str, Any]] = [{"dtype": "float32"}, {"dtype": "bfloat16"}]
    chosen += [{"query_prompt": "a"}, {"passage_prompt": "a"}, {"passage_prompt": ""}, {"passage_prompt": "b"}]
    others += [spec.model_copy(update={"embedder": EmbedderSpec(**fields)}) for fields in chosen]
    different = {
        identity_settings(spec, "e"),
        identity_settings(spec, "f"),
        *(identity_settings(o, "e") for o in others),
    }
    assert len(different) == 11
    # As before there was a choice: chunks keep their ids.
    assert not any(named in identity_settings(spec, "e") for named in ("dot", "dtype", "prompt"))
    assert json.dumps(sorted(different))


def test_vectors_of_their_own_length_are_cached_apart(tmp_path: Path) -> None:
    embedder = write_embedder(tmp_path / "embedder")
    (tmp_path / "embedder" / "modules.json").write_text(
        json.dumps(json.loads((tmp_path / "embedder" / "modules.json").read_text())[:2])  # without Normalize
    )
    texts = ["the quick brown fox", "a lazy dog"]
    lengths = {}
    for unit in (True, False, True):
        stage = Embed(embedder, fingerprint(embedder), EmbedderSpec(), 1, tmp_path, unit)
        lengths[unit] = np.linalg.norm(stage(batch(texts))["vector"], axis=1)
    assert np.allclose(lengths[True], 1)
    assert not np.allclose(lengths[False], 1, atol=0.1)


def batch(texts: list[str]) -> dict[str, Any]:
    chunks = [Chunk(text, "a.md", text, text, text, 0, len(text), 0, "0", None, {}) for text in texts]
    return {"data": np.array([json.dumps(asdict(chunk)) for chunk in chunks])}


@pytest.mark.parametrize(("dtype", "computed_in"), [("auto", "bfloat16"), ("float32", "float32")])
def test_the_first_batch_tells_whether_bf16_keeps_the_neighbours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: Literal["auto", "float32"],
    computed_in: Dtype,
) -> None:
    monkeypatch.setattr(embedding, "computes_bf16", lambda processor, *, cuda: True)
    monkeypatch.setattr(embedding, "RECALL_KEPT", 0.0)
    monkeypatch.setattr(embedding, "MEASURED_ON", 12)
    embedder = write_embedder(tmp_path / "embedder")
    stage = Embed(embedder, fingerprint(embedder), EmbedderSpec(dtype=dtype), 1, tmp_path)
    texts = [f"the quick brown fox {number}" for number in range(24)]
    for made in (stage(batch(texts[:12])), stage(batch(texts[12:]))):
        assert made["embedded"].all()
        embedded = [Chunk(**json.loads(data)).embedding_text for data in made["data"]]
        assert np.array_equal(made["vector"], Embedder(embedder, 32, computed_in).encode(embedded))
    again = stage(batch(texts))
    assert not Embed(embedder, fingerprint(embedder), EmbedderSpec(), 1, tmp_path)(batch(texts))["embedded"].any()
    assert again["vector"].shape == (24, made["vector"].shape[1])


def put(storage: Path, model: Path, dtype: Dtype, texts: list[str], value: float) -> None:
    """Cache a vector for each text that no embedder would give, so that it is known again."""
    embedded = [Chunk(**json.loads(data)).embedding_text for data in batch(texts)["data"]]
    vectors = np.full((len(texts), 32), value, dtype=np.float32)
    EmbeddingCache(storage, fingerprint(model), dtype).put(embedded, vectors)


def test_what_is_cached_costs_no_import_of_pytorch(tmp_path: Path) -> None:
    put(tmp_path, write_embedder(tmp_path / "embedder"), "float32", ["the quick brown fox"], 2.0)
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from tandem.retrieval.embedder_files import fingerprint; from tandem.retrieval.indexing import Embed\n"
        "from tandem.specs.index import EmbedderSpec\n"
        "root, data = Path(sys.argv[1]), np.array([sys.argv[2]]); model = root / 'embedder'\n"
        "made = Embed(model, fingerprint(model), EmbedderSpec(), 1, root)({'data': data})\n"
        "print(made['vector'][0, 0], 'torch' in sys.modules)"
    )
    (data,) = batch(["the quick brown fox"])["data"]
    done = subprocess.run([sys.executable, "-c", code, tmp_path, data], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2.0", "False"]


def test_vectors_of_another_type_do_unless_one_is_asked_for(tmp_path: Path) -> None:
    model, texts = write_embedder(tmp_path / "embedder"), ["the quick brown fox", "a lazy dog", "the default value"]
    put(tmp_path, model, "bfloat16", texts[:2], 2.0)
    put(tmp_path, model, "float32", texts[1:2], 4.0)

    def run(dtype: Literal["auto", "float32", "bfloat16"], texts: list[str]) -> tuple[list[float], list[bool], Embed]:
        stage = Embed(model, fingerprint(model), EmbedderSpec(dtype=dtype), 1, tmp_path)
        made = stage(batch(texts))
        return made["vector"][:, 0].tolist(), made["embedded"].tolist(), stage

    vectors, embedded, stage = run("auto", texts[:2])
    assert (vectors, embedded) == ([2.0, 4.0], [False, False])
    assert stage._model is None  # all was there: nothing tells what would be chosen today
    vectors, embedded, stage = run("float32", texts)
    assert embedded == [True, False, True]
    assert vectors[1] == 4.0
    assert abs(vectors[0]) < 1
    vectors, embedded, _ = run("bfloat16", texts)
    assert embedded == [False, False, True]
    assert vectors[:2] == [2.0, 2.0]
    # What was computed since is there for either.
    assert run("auto", texts)[1] == run("float32", texts)[1] == run("bfloat16", texts)[1] == [False] * 3


def test_chunks_are_embedded_and_cached_with_the_prompt_that_is_asked_for(tmp_path: Path) -> None:
    model, texts = write_embedder(tmp_path / "embedder"), ["the quick brown fox", "a lazy dog"]
    embedded = [Chunk(**json.loads(data)).embedding_text for data in batch(texts)["data"]]
    for again in (False, True):
        for prompt in (None, "the document: ", "the question: "):
            stage = Embed(model, fingerprint(model), EmbedderSpec(passage_prompt=prompt), 1, tmp_path)
            made = stage(batch(texts))
            assert made["embedded"].tolist() == [not again] * 2
            expected = Embedder(model, 32, prompts=Prompts(passage=prompt or "")).encode(embedded)
            assert np.allclose(made["vector"], expected, atol=1e-5)


def test_two_calls_at_once_open_one_model_and_get_their_own_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_embedder(tmp_path / "embedder")
    stage = Embed(model, fingerprint(model), EmbedderSpec(dtype="float32"), 2, tmp_path)
    opened: list[Path] = []

    def opening(path: Path, *settings: Any, **named: Any) -> Embedder:
        opened.append(path)
        return Embedder(path, *settings, **named)

    monkeypatch.setattr(embedding, "Embedder", opening)
    parts = [[f"the quick brown fox {number}" for number in range(begin, begin + 40)] for begin in range(0, 240, 40)]
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda texts: stage(batch(texts)), parts))
    assert opened == [model]
    alone = Embedder(model, 32)
    for texts, one in zip(parts, made, strict=True):
        embedded = [Chunk(**json.loads(data)).embedding_text for data in batch(texts)["data"]]
        assert np.allclose(one["vector"], alone.encode(embedded), atol=1e-5)
