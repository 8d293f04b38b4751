from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest
from stand_ins.qdrant_server import StandIn, running
from unit.retrieval.contract import COLLECTION, StoreContract, ask, point

from tandem.errors import AuthError, StoreError, UnreachableError
from tandem.retrieval import qdrant, qdrant_line
from tandem.retrieval.qdrant import QdrantStore
from tandem.retrieval.store import RRF_K


@pytest.fixture
def server() -> Iterator[StandIn]:
    with running() as state:
        yield state


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_line, "PAUSES_S", (0.0,) * len(qdrant_line.PAUSES_S))


class TestQdrantStoreOnTheStandIn(StoreContract):
    @pytest.fixture
    def store(self, server: StandIn) -> Iterator[QdrantStore]:
        store = QdrantStore(server.url, None, 10)
        yield store
        store.close()

    def test_every_branch_and_the_top_of_a_hybrid_query_carry_the_filter(
        self, filled: QdrantStore, server: StandIn
    ) -> None:
        filled.search(COLLECTION, [ask("cat", "cat", "hybrid", tenant="red")])
        (search,) = json.loads(server.requests[-1][2])["searches"]
        assert len(search["prefetch"]) == 2
        assert all("red" in json.dumps(branch["filter"]) for branch in [search, *search["prefetch"]])
        assert search["query"]["rrf"]["k"] == RRF_K

    @pytest.mark.parametrize(("fault", "times"), [(429, 3), (500, 3), (503, 1), ("half", 1), ("half", 3), ("late", 1)])
    def test_what_passes_is_waited_for(self, server: StandIn, fault: int | str, times: int) -> None:
        store = QdrantStore(server.url, None, 1)
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        server.faults += [fault] * times
        store.upsert(COLLECTION, [point("cat")])
        server.faults += [fault] * times
        assert self.names(store, ask("cat", "cat", "hybrid")) == ["cat"]
        assert server.faults == []

    @pytest.mark.parametrize(
        ("fault", "error"), [(400, StoreError), (500, StoreError), (429, StoreError), ("half", UnreachableError)]
    )
    def test_what_stays_becomes_our_error(
        self, filled: QdrantStore, server: StandIn, fault: int | str, error: type[Exception]
    ) -> None:
        server.faults += [fault] * 9
        with pytest.raises(error) as caught:
            filled.upsert(COLLECTION, [point("cat")])
        assert caught.value.where == server.url
        assert len(server.faults) == (8 if fault == 400 else 5)  # a refusal is final; the rest is asked four times

    @pytest.mark.parametrize("fault", ["late", 503])
    def test_a_search_is_waited_for_and_asked_again_within_its_time_alone(
        self, filled: QdrantStore, server: StandIn, fault: int | str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(qdrant_line, "PAUSES_S", (3.0,) * 3)
        server.faults += [fault] * 9
        began = time.monotonic()
        with pytest.raises((UnreachableError, StoreError)):
            filled.search(COLLECTION, [ask("cat", "cat", "hybrid")], within_s=0.9)
        assert time.monotonic() - began < 2.5
        assert len(server.faults) == 8
        with pytest.raises(UnreachableError, match="no time is left"):
            filled.search(COLLECTION, [ask("cat", "cat", "hybrid")], within_s=-1)
        assert len(server.faults) == 8

    def test_the_server_is_waited_for_while_it_builds(
        self, filled: QdrantStore, server: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(qdrant, "_STATUS_EVERY_S", 0.0)
        server.builds_for = 3
        filled.optimize(COLLECTION)
        assert server.builds_for == 0
        server.builds_for = -1
        with pytest.raises(StoreError, match="can't build the graph"):
            filled.optimize(COLLECTION)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_key_is_final(self, filled: QdrantStore, server: StandIn, status: int) -> None:
        server.faults.append(status)
        with pytest.raises(AuthError):
            filled.upsert(COLLECTION, [point("cat")])

    def test_a_creation_whose_answer_was_lost_counts(self, server: StandIn) -> None:
        store = QdrantStore(server.url, None, 10)
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        server.answers_no_to_exists = 1
        store.create_collection(COLLECTION, dimension=4, sparse=True)
        assert store.collections() == [COLLECTION]

    def test_a_wrong_key_is_said_so(self, server: StandIn) -> None:
        server.api_key = "right"
        with pytest.raises(AuthError, match="api_key_env"):
            QdrantStore(server.url, "wrong", 10).collections()
        assert QdrantStore(server.url, "right", 10).collections() == []


def test_no_server_is_said_so() -> None:
    with pytest.raises(UnreachableError, match="can't be reached"):
        QdrantStore("http://127.0.0.1:9", None, 2).collections()


if "QDRANT_URL" in os.environ:

    class TestQdrantStoreOnARealServer(StoreContract):
        @pytest.fixture
        def store(self) -> Iterator[QdrantStore]:
            store = QdrantStore(os.environ["QDRANT_URL"], os.environ.get("QDRANT_API_KEY"), 30)
            if store.collections():
                pytest.fail("this suite wants an empty server: it creates and drops collections")
            yield store
            for name in store.collections():
                store.drop_collection(name)
            store.close()

else:

    @pytest.mark.skip(reason="no Qdrant server: set QDRANT_URL to run the contract on a real one")
    def test_the_contract_on_a_real_server() -> None:
        raise AssertionError("skipped")
