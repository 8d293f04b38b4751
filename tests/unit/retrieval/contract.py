"""What every `VectorStore` must do; each store's test module runs this suite on itself."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tandem.errors import InputError, NotFoundError, StoreError
from tandem.retrieval.bm25 import document_terms, query_terms
from tandem.retrieval.store import Point, Query, SparseVector, VectorStore, scroll_all
from tandem.specs.index import VectorIndexSpec

COLLECTION = "animals"
TEXTS = {
    "cat": ("the cat sleeps on the sofa", [1.0, 0.0, 0.0, 0.1], "red"),
    "dog": ("the dog barks at the postman", [0.9, 0.3, 0.0, 0.1], "red"),
    "owl": ("the owl hunts at night", [0.0, 1.0, 0.2, 0.1], "blue"),
    "eel": ("the eel swims far", [0.1, 0.0, 1.0, 0.1], "blue"),
    "fox": ("the fox waits and the cat knows", [0.8, 0.1, 0.1, 0.1], None),
}


def ident(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def terms(text: str, *, query: bool = False) -> SparseVector:
    return (query_terms([text]) if query else document_terms([text], 8.0))[0]


def point(name: str, **payload: Any) -> Point:
    text, vector, tenant = TEXTS[name]
    owner = {"tenant": tenant} if tenant else {}
    return Point(ident(name), vector, terms(text), {"name": name, "source": f"{name}.txt", **owner, **payload})


def ask(text: str, like: str, mode: Any, **kwargs: Any) -> Query:
    return Query(TEXTS[like][1], terms(text, query=True), kwargs.pop("top_k", 5), mode, **kwargs)


class StoreContract:
    """Inherit, and give a fixture `store` with an empty store."""

    @pytest.fixture
    def filled(self, store: VectorStore) -> VectorStore:
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        store.upsert(COLLECTION, [point(name) for name in TEXTS])
        return store

    def names(self, store: VectorStore, query: Query) -> list[str]:
        (hits,) = store.search(COLLECTION, [query])
        return [hit.payload["name"] for hit in hits]

    @pytest.mark.parametrize("value", [1.5, None, {"gte": 1}, [], ["a", 1], [True], [1.5]])
    def test_a_filter_that_cannot_be_matched_is_refused(self, filled: VectorStore, value: Any) -> None:
        with pytest.raises(InputError, match=r"filter\.source: can't be matched"):
            filled.search(COLLECTION, [ask("cat", "cat", "hybrid", filter={"source": value})])
        with pytest.raises(InputError, match="can't be matched"):
            filled.count(COLLECTION, tenant=None, filter={"source": value})

    def test_collections_come_and_go(self, store: VectorStore) -> None:
        assert store.collections() == []
        store.create_collection("b", dimension=4, sparse=True)
        store.create_collection("a", dimension=8, sparse=False)
        store.create_collection("a", dimension=8, sparse=False)
        assert store.collections() == ["a", "b"]
        store.drop_collection("b")
        assert store.collections() == ["a"]
        with pytest.raises(NotFoundError, match="there are: a"):
            store.drop_collection("b")

    def test_an_alias_stands_for_one_collection_after_another(self, filled: VectorStore) -> None:
        filled.create_collection("newer", dimension=4, sparse=True)
        filled.upsert("newer", [point("owl")])
        filled.set_alias("current", COLLECTION)
        assert filled.count("current", tenant=None, filter=None) == len(TEXTS)
        filled.set_alias("current", "newer")
        filled.set_alias("current", "newer")
        assert filled.aliases() == {"current": "newer"}
        assert [hit.id for hit in filled.search("current", [ask("cat", "cat", "hybrid")])[0]] == [ident("owl")]
        filled.upsert("current", [point("eel")])
        filled.delete("current", [ident("owl")])
        (record,) = filled.scroll("current", fields=["name"], limit=5, offset=None).records
        assert record.payload["name"] == "eel"
        filled.optimize("current")
        assert filled.count(COLLECTION, tenant=None, filter=None) == len(TEXTS)

    def test_an_alias_goes_with_its_collection_and_is_none_itself(self, filled: VectorStore) -> None:
        filled.set_alias("current", COLLECTION)
        assert filled.collections() == [COLLECTION]
        with pytest.raises(NotFoundError, match="'current'"):
            filled.drop_collection("current")
        filled.drop_collection(COLLECTION)
        assert filled.aliases() == {}
        with pytest.raises(NotFoundError):
            filled.count("current", tenant=None, filter=None)

    def test_a_name_is_an_alias_or_a_collection(self, filled: VectorStore) -> None:
        filled.create_collection("other", dimension=4, sparse=True)
        filled.set_alias("current", COLLECTION)
        with pytest.raises(InputError, match="'other' belongs to a collection"):
            filled.set_alias("other", COLLECTION)
        with pytest.raises(InputError, match="'current' belongs to an alias"):
            filled.create_collection("current", dimension=4, sparse=True)
        with pytest.raises(NotFoundError, match=r"'nothing'.*current"):
            filled.set_alias("another", "nothing")

    @pytest.mark.parametrize("vectors", [VectorIndexSpec(m=8, ef_construct=32), VectorIndexSpec(quantization="int8")])
    def test_whatever_the_graph_the_nearest_is_found(self, store: VectorStore, vectors: VectorIndexSpec) -> None:
        store.create_collection(COLLECTION, dimension=4, sparse=True, vectors=vectors)
        store.upsert(COLLECTION, [point(name) for name in TEXTS])
        store.optimize(COLLECTION)
        for exact in (True, False):
            query = ask("", "owl", "dense", top_k=1, exact=exact, ef=16)
            assert self.names(store, query) == ["owl"]

    def test_by_inner_products_vectors_of_any_length_are_compared_as_they_are(self, store: VectorStore) -> None:
        store.create_collection(COLLECTION, dimension=4, sparse=True, vectors=VectorIndexSpec(distance="dot"))
        long = Point(ident("long"), [3.0, 3.0, 0.0, 0.0], terms("long"), {"name": "long", "tenant": "red"})
        store.upsert(COLLECTION, [*(point(name) for name in TEXTS), long])
        store.optimize(COLLECTION)
        query = Query([2.0, 0.0, 0.0, 0.0], None, 2, "dense", with_vectors=True)
        (hits,) = store.search(COLLECTION, [query])
        # By cosine the cat would be first.
        assert [(hit.payload["name"], hit.score) for hit in hits] == [("long", 6.0), ("cat", 2.0)]
        assert list(hits[0].vector) == [3.0, 3.0, 0.0, 0.0]
        assert self.names(store, Query([2.0, 0.0, 0.0, 0.0], None, 1, "dense", tenant="blue")) == ["fox"]
        with pytest.raises(InputError, match="distance: dot"):
            store.create_collection(COLLECTION, dimension=4, sparse=True)

    def test_vectors_are_given_where_they_are_asked_for(self, filled: VectorStore) -> None:
        length = sum(value**2 for value in TEXTS["cat"][1]) ** 0.5
        wanted = pytest.approx([value / length for value in TEXTS["cat"][1]], abs=1e-6)
        for mode in ("dense", "sparse", "hybrid"):
            (hits,) = filled.search(COLLECTION, [ask("cat", "cat", mode, with_vectors=True)])
            assert next(hit for hit in hits if hit.payload["name"] == "cat").vector == wanted
        records = {r.id: r for r in filled.scroll(COLLECTION, fields=(), limit=9, offset=None, vectors=True).records}
        assert records[ident("cat")].vector == wanted
        assert filled.scroll(COLLECTION, fields=(), limit=1, offset=None).records[0].vector is None
        assert filled.search(COLLECTION, [ask("cat", "cat", "dense")])[0][0].vector is None

    @pytest.mark.parametrize(("dimension", "sparse"), [(5, True), (4, False)])
    def test_a_collection_of_another_shape_is_refused(self, filled: VectorStore, dimension: int, sparse: bool) -> None:
        with pytest.raises(InputError, match="4 dimensions and sparse"):
            filled.create_collection(COLLECTION, dimension=dimension, sparse=sparse)
        assert filled.count(COLLECTION, tenant=None, filter=None) == len(TEXTS)

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.upsert("none", [point("cat")]),
            lambda store: store.delete("none", [ident("cat")]),
            lambda store: store.search("none", [ask("cat", "cat", "hybrid")]),
            lambda store: store.scroll("none", fields=[], limit=1, offset=None),
            lambda store: store.count("none", tenant=None, filter=None),
            lambda store: store.optimize("none"),
            lambda store: store.drop_collection("none"),
            lambda store: store.set_alias("any", "none"),
        ],
    )
    def test_an_unknown_collection_is_named_with_those_that_exist(self, filled: VectorStore, call: Any) -> None:
        with pytest.raises(NotFoundError, match=f"'none'.*there are: {COLLECTION}"):
            call(filled)

    def test_dense_search_goes_by_direction(self, filled: VectorStore) -> None:
        assert self.names(filled, ask("", "owl", "dense", top_k=1)) == ["owl"]
        assert self.names(filled, ask("", "cat", "dense", top_k=3)) == ["cat", "fox", "dog"]

    def test_sparse_search_goes_by_words(self, filled: VectorStore) -> None:
        assert self.names(filled, ask("which owl hunts?", "cat", "sparse")) == ["owl"]

    def test_hybrid_search_finds_by_direction_and_by_words(self, filled: VectorStore) -> None:
        found = self.names(filled, ask("postman", "cat", "hybrid"))
        assert set(found[:2]) == {"dog", "cat"}
        assert found[0] == "dog"  # second by direction and first by words: only the fusion of both puts it first

    def test_a_question_without_a_known_word_still_has_direction(self, filled: VectorStore) -> None:
        assert self.names(filled, ask("", "owl", "hybrid", top_k=1)) == ["owl"]
        assert self.names(filled, ask("", "owl", "sparse")) == []

    def test_queries_of_a_batch_keep_their_order(self, filled: VectorStore) -> None:
        queries = [ask(name, name, "hybrid", top_k=1) for name in ("eel", "cat", "owl")]
        assert [hits[0].payload["name"] for hits in filled.search(COLLECTION, queries)] == ["eel", "cat", "owl"]
        assert filled.search(COLLECTION, []) == []

    def test_scores_fall(self, filled: VectorStore) -> None:
        for mode in ("dense", "sparse", "hybrid"):
            (hits,) = filled.search(COLLECTION, [ask("the cat sleeps", "cat", mode)])
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    @pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
    @pytest.mark.parametrize(
        ("tenant", "visible"), [("red", {"cat", "dog", "fox"}), ("blue", {"owl", "eel", "fox"}), ("green", {"fox"})]
    )
    def test_a_tenant_sees_its_own_points_and_those_of_nobody(
        self, filled: VectorStore, mode: str, tenant: str, visible: set[str]
    ) -> None:
        # A question with words of every point, so that each would be found if it could be seen.
        question = " ".join(text for text, _, _ in TEXTS.values())
        for like in TEXTS:
            query = ask(question, like, mode, tenant=tenant, top_k=10)
            assert set(self.names(filled, query)) == visible
        assert filled.count(COLLECTION, tenant=tenant, filter=None) == len(visible)

    @pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
    def test_other_tenants_take_no_places(self, store: VectorStore, mode: Any) -> None:
        # 200 better points of another tenant: filtered after the search, nothing would be left.
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        crowd = [
            Point(ident(f"crowd-{n}"), [1.0, 0.0, 0.0, 0.0], terms("cat"), {"name": "crowd", "tenant": "blue"})
            for n in range(200)
        ]
        store.upsert(COLLECTION, [*crowd, point("cat")])
        assert self.names(store, ask("cat", "cat", mode, tenant="red", top_k=3)) == ["cat"]

    @pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
    def test_a_filter_cannot_widen_what_a_tenant_sees(self, filled: VectorStore, mode: Any) -> None:
        query = ask("owl hunts cat", "owl", mode, tenant="red", filter={"tenant": "blue"})
        assert self.names(filled, query) == []

    @pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
    def test_a_filter_takes_one_value_or_several(self, filled: VectorStore, mode: Any) -> None:
        question = "cat dog owl eel fox"
        assert self.names(filled, ask(question, "cat", mode, filter={"source": "owl.txt"})) == ["owl"]
        several = ask(question, "cat", mode, filter={"source": ["owl.txt", "eel.txt"]})
        assert set(self.names(filled, several)) == {"owl", "eel"}
        assert filled.count(COLLECTION, tenant="red", filter={"source": ["owl.txt", "cat.txt"]}) == 1

    def test_a_filter_reaches_into_the_payload(self, filled: VectorStore) -> None:
        filled.upsert(COLLECTION, [point("cat", metadata={"lang": "en", "page": 3})])
        for wanted in ({"metadata.lang": "en"}, {"metadata.page": 3}):
            assert self.names(filled, ask("", "cat", "dense", filter=wanted)) == ["cat"]

    def test_upsert_replaces_by_id(self, filled: VectorStore) -> None:
        filled.upsert(COLLECTION, [point("cat", source="new.txt")])
        assert filled.count(COLLECTION, tenant=None, filter=None) == len(TEXTS)
        assert filled.count(COLLECTION, tenant=None, filter={"source": "new.txt"}) == 1
        assert filled.count(COLLECTION, tenant=None, filter={"source": "cat.txt"}) == 0

    def test_deleted_points_are_gone(self, filled: VectorStore) -> None:
        filled.delete(COLLECTION, [ident("cat"), ident("nobody")])
        assert filled.count(COLLECTION, tenant=None, filter=None) == len(TEXTS) - 1
        assert "cat" not in self.names(filled, ask("cat sleeps", "cat", "hybrid"))

    def test_scroll_gives_every_record_once_in_order(self, filled: VectorStore) -> None:
        records = list(scroll_all(filled, COLLECTION, fields=["name"], page_size=2))
        assert [record.id for record in records] == sorted(ident(name) for name in TEXTS)
        assert {record.payload["name"] for record in records} == set(TEXTS)
        assert all(set(record.payload) == {"name"} for record in records)
        (first, *_) = filled.scroll(COLLECTION, fields=[], limit=1, offset=None).records
        assert first.payload == {}

    def test_vectors_of_another_dimension_are_refused(self, filled: VectorStore) -> None:
        with pytest.raises(StoreError):
            filled.upsert(COLLECTION, [Point(ident("odd"), [1.0, 2.0], None, {})])
        assert filled.count(COLLECTION, tenant=None, filter=None) == len(TEXTS)

    def test_a_collection_without_terms_is_searched_by_direction(self, store: VectorStore) -> None:
        store.create_collection("plain", dimension=4, sparse=False)
        store.upsert("plain", [Point(ident("cat"), TEXTS["cat"][1], None, {"name": "cat"})])
        (hits,) = store.search("plain", [Query(TEXTS["cat"][1], None, 3, "hybrid")])
        assert [hit.id for hit in hits] == [ident("cat")]

    def test_optimizing_changes_nothing_that_is_seen(self, filled: VectorStore) -> None:
        query = ask("cat", "cat", "hybrid")
        before = self.names(filled, query)
        filled.optimize(COLLECTION)
        assert self.names(filled, query) == before
