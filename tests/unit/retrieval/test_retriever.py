from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins.world import make_cluster
from tiny_models import write_embedder
from unit.retrieval.contract import COLLECTION, TEXTS, ident, terms

from tandem.artifacts.manifest import write_manifest
from tandem.errors import InputError, ModelError, NotFoundError
from tandem.retrieval import embedding, tenants
from tandem.retrieval.chunk_ids import pack, union
from tandem.retrieval.embedded import EdgeStore
from tandem.retrieval.prompts import Prompts
from tandem.retrieval.retriever import Retriever, _check_comparable, _question_embedder
from tandem.retrieval.snapshot import FILE, IndexSnapshot, find_snapshot, made_by, snapshot_id, write_snapshot
from tandem.retrieval.store import Point
from tandem.specs.search import RerankSpec, SearchSpec


class Embedder:
    """Knows the vectors of five animals."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def encode(self, texts: list[str], *, question: bool) -> list[list[float]]:
        self.asked.append(question)
        return [next(vector for name, (_, vector, _) in TEXTS.items() if name in text) for text in texts]


@pytest.fixture
def retriever(tmp_path: Path) -> Iterator[Retriever]:
    store = EdgeStore(tmp_path / "index")
    store.create_collection(COLLECTION, dimension=4, sparse=True)
    points = []
    for name, (text, vector, tenant) in TEXTS.items():
        payload: dict[str, Any] = {"source": f"{name}.md", "title": name, "section": name, "text": text}
        payload |= {"start": 0, "end": len(text), **({"tenant": tenant} if tenant else {})}
        points.append(Point(ident(name), vector, terms(text), payload))
    store.upsert(COLLECTION, points)
    yield Retriever(store, COLLECTION, Embedder())
    store.close()


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
def test_each_question_gets_its_passages_in_order(retriever: Retriever, mode: Any) -> None:
    found = retriever.search(["where is the owl?", "the eel"], SearchSpec(top_k=2, mode=mode))
    assert [passages[0].title for passages in found] == ["owl", "eel"]
    best = found[0][0]
    assert (best.id, best.source, best.text, best.tenant) == (ident("owl"), "owl.md", TEXTS["owl"][0], "blue")
    assert all(len(passages) <= 2 for passages in found)
    assert retriever.search([], SearchSpec(top_k=2)) == []


def test_what_is_searched_for_is_embedded_as_a_question_and_other_texts_as_they_are_asked_for(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = retriever._embedder
    monkeypatch.setattr(embedder, "count_tokens", lambda texts, *, question: 7 if question else 5, raising=False)
    retriever.search(["the owl"], SearchSpec())
    assert embedder.asked == [True]
    assert [retriever.embed(["the owl"], question=question)[1] for question in (True, False)] == [7, 5]
    assert embedder.asked == [True, True, False]


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse"])
def test_a_tenant_never_gets_what_belongs_to_another(retriever: Retriever, mode: Any) -> None:
    for question in ("owl", "the cat and the dog and the eel at night"):
        (passages,) = retriever.search([question], SearchSpec(top_k=10, mode=mode), tenant="red")
        assert {passage.tenant for passage in passages} <= {"red", None}


@pytest.mark.parametrize("wider", [None, "blue"])
def test_what_is_restricted_to_a_tenant_can_not_be_widened(retriever: Retriever, wider: str | None) -> None:
    (passages,) = retriever.restricted_to("red").search(["owl"], SearchSpec(top_k=10), tenant=wider)
    assert {passage.tenant for passage in passages} == {"red", None}
    (everything,) = retriever.search(["owl"], SearchSpec(top_k=10))
    assert "blue" in {passage.tenant for passage in everything}


@pytest.mark.parametrize(
    ("field", "tenant", "seen"),
    [("customer", "red", {"red", None}), ("customer", "*", {"red", "blue", None}), (None, None, {"red", "blue", None})],
)
def test_a_job_sees_the_passages_of_the_tenant_that_its_spec_names(
    retriever: Retriever,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    field: str | None,
    tenant: str | None,
    seen: set[str | None],
) -> None:
    retriever.snapshot = snapshot(COLLECTION, tenant_field=field)
    monkeypatch.setattr(tenants, "open_retriever", lambda cluster, collection: retriever)
    opened = tenants.open_for_job(make_cluster(tmp_path), COLLECTION, tenant)
    (passages,) = opened.search(["owl"], SearchSpec(top_k=10))
    assert {passage.tenant for passage in passages} == seen


@pytest.mark.parametrize(
    ("field", "tenant", "says"), [("customer", None, "belong to tenants"), (None, "red", "without")]
)
def test_a_job_must_say_whose_passages_and_only_where_they_are_somebodys(
    retriever: Retriever,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    field: str | None,
    tenant: str | None,
    says: str,
) -> None:
    retriever.snapshot = snapshot(COLLECTION, tenant_field=field)
    monkeypatch.setattr(tenants, "open_retriever", lambda cluster, collection: retriever)
    with pytest.raises(InputError, match=says):
        tenants.open_for_job(make_cluster(tmp_path), COLLECTION, tenant)


def test_a_filter_narrows(retriever: Retriever) -> None:
    (passages,) = retriever.search(["owl"], SearchSpec(top_k=10), filter={"source": ["cat.md", "dog.md"]})
    assert {passage.source for passage in passages} == {"cat.md", "dog.md"}


def test_only_what_is_near_enough_is_used(retriever: Retriever) -> None:
    for mode in ("hybrid", "dense", "sparse"):
        how = SearchSpec(top_k=5, mode=mode, min_similarity=0.94)
        found = retriever.search(["the cat", "the owl and the cat"], how)
        # By words alone the dog, which is near, isn't found at all.
        assert [passage.title for passage in found[0]] == ["cat", "fox", "dog"][: 2 if mode == "sparse" else 3]
    assert retriever.search(["the eel"], SearchSpec(top_k=1, min_similarity=1.0))[0][0].title == "eel"


class Longest:
    """Prefers long passages."""

    def scores(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array([len(passage) / 100 for _, passage in pairs], dtype=np.float32)


def test_candidates_are_read_again_and_the_best_of_them_used(retriever: Retriever) -> None:
    reranking = Retriever(retriever._store, COLLECTION, Embedder(), reranker=Longest())
    how = SearchSpec(top_k=2, rerank=RerankSpec(model="m"))
    (passages,) = reranking.search(["the eel"], how)
    assert [passage.title for passage in passages] == ["fox", "dog"]
    assert passages[0].score == pytest.approx(len(TEXTS["fox"][0]) / 100)
    strict = how.model_copy(update={"rerank": RerankSpec(model="m", min_score=0.3)})
    assert [passage.title for passage in reranking.search(["the eel"], strict)[0]] == ["fox"]


def test_passages_that_say_the_same_make_room(retriever: Retriever) -> None:
    (alike,) = retriever.search(["the cat"], SearchSpec(top_k=2, mode="dense"))
    assert [passage.title for passage in alike] == ["cat", "fox"]
    (unlike,) = retriever.search(["the cat"], SearchSpec(top_k=2, mode="dense", diversity=0.9))
    assert [passage.title for passage in unlike] == ["cat", "owl"]


def test_the_store_gets_the_time_that_embedding_leaves(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float | None] = []
    monkeypatch.setattr(retriever._store, "search", lambda *_, within_s: given.append(within_s) or [[]])
    retriever.search(["owl"], SearchSpec(), within_s=5)
    retriever.search(["owl"], SearchSpec())
    assert given[0] is not None
    assert 0 < given[0] < 5
    assert given[1] is None


def test_a_name_that_has_moved_on_is_noticed(retriever: Retriever) -> None:
    store = retriever._store
    assert not retriever.is_outdated("animals-alias")
    store.set_alias("animals-alias", COLLECTION)
    assert not retriever.is_outdated("animals-alias")
    store.create_collection("newer", dimension=4, sparse=True)
    store.set_alias("animals-alias", "newer")
    assert retriever.is_outdated("animals-alias")


def snapshot(collection: str, **changes: Any) -> IndexSnapshot:
    values = dict.fromkeys(IndexSnapshot.__dataclass_fields__, 1) | {"query_prompt": "", "passage_prompt": ""}
    values |= {"collection": collection, "id": "x", **changes}
    return IndexSnapshot(**values)


def test_without_term_weights_hybrid_search_is_dense(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path / "index")
    store.create_collection("plain", dimension=4, sparse=False)
    payload = {"source": "s", "title": "t", "section": "c", "text": "x", "start": 0, "end": 1}
    store.upsert("plain", [Point(ident("cat"), TEXTS["cat"][1], None, payload)])
    (passages,) = Retriever(store, "plain", Embedder(), snapshot("plain", sparse=False)).search(
        ["cat"], SearchSpec(top_k=1)
    )
    assert [passage.id for passage in passages] == [ident("cat")]
    store.close()


def test_questions_encoded_for_inner_products_need_a_collection_compared_by_them() -> None:
    class Questions:
        dimension = 4

    _check_comparable(Questions, snapshot("docs", dimension=4, distance="dot"))
    with pytest.raises(ModelError, match="compared by cosine"):
        _check_comparable(Questions, snapshot("docs", dimension=4, distance="cosine"))
    with pytest.raises(ModelError, match="5 dimensions, and those of questions 4"):
        _check_comparable(Questions, snapshot("docs", dimension=5, distance="dot"))


def test_an_artifact_of_before_there_was_a_choice_is_compared_by_cosine_and_without_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "docs" / "1"
    folder.mkdir(parents=True)
    write_snapshot(folder, snapshot("docs"), name="docs", id="1", figures={})
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("distance", "dtype", "query_prompt", "passage_prompt"):
        del manifest["meta"]["snapshot"][name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = find_snapshot(tmp_path, "docs")
    assert found is not None
    assert (found.distance, found.dtype, found.query_prompt, found.passage_prompt) == ("cosine", "auto", "", "")


def test_an_unknown_collection_names_those_that_exist(retriever: Retriever) -> None:
    with pytest.raises(NotFoundError, match=f"there are: {COLLECTION}"):
        Retriever(retriever._store, "none", Embedder()).search(["cat"], SearchSpec(top_k=1))


def test_the_newest_complete_artifact_of_a_collection_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "artifacts"
    for name, number in (("a", 1), ("b", 2), ("a", 3)):
        folder = root / name / str(number)
        folder.mkdir(parents=True)
        write_snapshot(folder, snapshot("docs", id=str(number)), name=name, id=str(number), figures={"embedded": 0})
    other = root / "c" / "4"
    other.mkdir(parents=True)
    write_snapshot(other, snapshot("else"), name="c", id="4", figures={})
    incomplete = root / "a" / "5"
    incomplete.mkdir()
    (incomplete / FILE).write_text(json.dumps({"collection": "docs"}))
    report = root / "r" / "6"
    report.mkdir(parents=True)
    write_manifest(report, name="r", id="6", type="report", meta={"snapshot": {"collection": "docs"}})
    broken = root / "z" / "7"
    broken.mkdir(parents=True)
    write_snapshot(broken, snapshot("else"), name="z", id="7", figures={})
    (broken / "manifest.json").write_text("{")
    found = find_snapshot(tmp_path, "docs")
    assert found is not None
    assert found.id == "3"
    assert f"{broken / 'manifest.json'}: a manifest that can't be read" in caplog.text
    assert find_snapshot(tmp_path, "none") is None
    points = found.points
    assert [made_by(tmp_path, name, points) for name in ("docs", "else", "none")] == ["a", "c", None]
    assert made_by(tmp_path, "docs", "others") is None


def test_a_snapshot_has_another_id_with_other_chunks_and_with_other_settings() -> None:
    one, other = (pack([str(uuid.UUID(int=number))]) for number in (1, 2))
    assert snapshot_id(one, "s") == snapshot_id(one.copy(), "s")
    assert (
        len(
            {
                snapshot_id(one, "s"),
                snapshot_id(other, "s"),
                snapshot_id(union([one, other]), "s"),
                snapshot_id(one, "t"),
            }
        )
        == 4
    )


@pytest.mark.parametrize(
    ("bf16", "points", "kept", "quick", "embedded_in"),
    [
        (True, 128, 0.0, True, "bfloat16"),
        (True, 128, 1.1, True, "float32"),  # others would be found
        (True, 127, 0.0, True, "float32"),  # too few to tell
        (False, 128, 0.0, True, "float32"),
        (True, 128, 0.0, False, "float32"),
    ],
)
def test_questions_are_embedded_in_bf16_where_they_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool, points: int, kept: float, quick: bool, embedded_in: Any
) -> None:
    monkeypatch.setattr(embedding, "computes_bf16", lambda processor, *, cuda: bf16)
    monkeypatch.setattr(embedding, "RECALL_KEPT", kept)
    model = write_embedder(tmp_path / "embedder")
    store = EdgeStore(tmp_path / "index")
    store.create_collection("docs-1", dimension=4, sparse=False)
    texts = [f"the quick brown fox {number}" for number in range(points)]
    store.upsert("docs-1", [Point(ident(text), [1.0, 0, 0, 0], None, {"text": text}) for text in texts])
    made = {"points": "docs-1", "batch_size": 32, "distance": "cosine", "query_prompt": "q: ", "passage_prompt": "p: "}
    embedder = _question_embedder(model, snapshot("docs", **made), store, quick=quick)
    store.close()
    assert embedder.dtype == embedded_in
    assert embedder.prompts == Prompts("q: ", "p: ")  # as the collection's, whatever the model's own are
