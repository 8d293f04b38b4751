from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tandem.config.cluster import Cluster
from tandem.errors import NotFoundError, StoreError, UnreachableError
from tandem.retrieval import retriever as retrieval
from tandem.serving import searching
from tandem.serving.searching import EMBED_SLICE, Retriever
from tandem.specs.search import SearchSpec

USUAL = SearchSpec()


class Index:
    """A retriever of one collection; `moved` is where its name has gone since."""

    def __init__(self, collection: str) -> None:
        self.collection = collection
        self.moved = False
        self.dropped = False
        self.looks = 0
        self.asked: list[list[str]] = []
        self.kinds: list[bool] = []
        self.within_s: list[float] = []
        self.remembered = (0, 0)
        self.hangs = threading.Event()
        self.hangs.set()

    def search(self, questions: list[str], how: SearchSpec, *, within_s: float, **visible: Any) -> list[list[str]]:
        if self.dropped:
            raise NotFoundError("gone")
        if visible["tenant"] == "cursed":
            raise StoreError("no such luck")
        self.asked.append(questions)
        self.within_s.append(within_s)
        self.hangs.wait(within_s)
        return [[f"{question} {how.top_k} {visible} in {self.collection}"] for question in questions]

    def is_outdated(self, name: str) -> bool:
        assert name == "docs"
        self.looks += 1
        self.hangs.wait(30)
        return self.moved

    def embed(self, texts: list[str], *, question: bool) -> tuple[np.ndarray, int]:
        self.asked.append(texts)
        self.kinds.append(question)
        self.hangs.wait(30)
        return np.array([[float(text)] for text in texts], dtype=np.float32), len(texts)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Index]]:
    """The retrievers that were opened."""
    found: list[Index] = []

    def open_retriever(
        cluster: Cluster, collection: str, rerank: object, *, remembered: int, questions: object, quick: bool
    ) -> Index:
        assert (collection, rerank, remembered, questions, quick) == ("docs", None, 7, None, True)
        found.append(Index(f"docs-{len(found)}"))
        return found[-1]

    monkeypatch.setattr(retrieval, "open_retriever", open_retriever)
    monkeypatch.setattr(Cluster, "load", lambda _: None)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))  # it is changed, and set back
    threads = torch.get_num_threads()
    yield found
    torch.set_num_threads(threads)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def call(question: str, how: SearchSpec = USUAL, tenant: str | None = None, within_s: float = 60) -> Any:
    return question, (how, tenant, "null"), time.monotonic() + within_s


def test_questions_that_come_together_are_searched_together_by_their_settings(opened: list[Index]) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    two, three = SearchSpec(top_k=2), SearchSpec(top_k=3)
    calls = [call("a", two), call("b", three, "red"), call("c", two)]
    found = asyncio.run(retriever._search(calls))
    assert opened[0].asked == [["a", "c"], ["b"]]
    assert [passages[0].split()[:2] for passages in found] == [["a", "2"], ["b", "3"], ["c", "2"]]


def test_a_retriever_follows_its_collections_name(opened: list[Index]) -> None:
    async def ask() -> str:
        (found,) = await retriever._search([call("a")])
        if isinstance(found, Exception):
            raise found
        (text,) = found
        return text.split(" in ")[1]

    async def story() -> None:
        assert await ask() == "docs-0"
        opened[0].moved = True
        # Not before it is time for a look; then beside the searches, which go on meanwhile.
        assert await ask() == "docs-0"
        retriever._look_at = 0
        assert await ask() == "docs-0"
        await until(lambda: len(opened) == 2 and retriever._following.done())
        assert await ask() == "docs-1"
        # Dropped before the next look: found at once.
        opened[1].moved = opened[1].dropped = True
        assert await ask() == "docs-2"
        opened[2].dropped = True
        with pytest.raises(NotFoundError):
            await ask()

    retriever = Retriever("storage", {"collection": "docs"}, 7)
    asyncio.run(story())


def test_a_search_that_fails_fails_for_its_own_callers_alone(opened: list[Index]) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    first, cursed, third = asyncio.run(retriever._search([call("a"), call("b", tenant="cursed"), call("c")]))
    assert first[0].startswith("a ")
    assert third[0].startswith("c ")
    assert isinstance(cursed, StoreError)

    async def through_the_batch() -> None:
        with pytest.raises(StoreError, match="no such luck"):
            await retriever.search("b", USUAL, "cursed", None, 5.0)

    async def alone(item: Any) -> Any:
        return (await retriever._search([item]))[0]

    retriever._batched = alone
    asyncio.run(through_the_batch())


def test_expired_calls_are_not_started_and_the_store_gets_the_time_that_is_left(opened: list[Index]) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    late, early = asyncio.run(retriever._search([call("late", within_s=-1), call("early", within_s=5)]))
    assert isinstance(late, UnreachableError)
    assert early[0].startswith("early ")
    assert opened[0].asked == [["early"]]
    assert 0 < opened[0].within_s[0] <= 5


def test_a_store_that_hangs_holds_a_batch_no_longer_than_its_callers_wait(
    opened: list[Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    opened[0].hangs.clear()
    monkeypatch.setattr(opened[0], "search", lambda *_, **__: opened[0].hangs.wait(30))

    async def story() -> None:
        try:
            async with asyncio.timeout(10):
                found = await retriever._search([call("a", within_s=0.05), call("b", tenant="red", within_s=0.05)])
            assert [type(one) for one in found] == [UnreachableError] * 2
        finally:
            opened[0].hangs.set()

    asyncio.run(story())


def test_it_is_ready_when_the_store_answers_and_looks_once_at_a_time(opened: list[Index]) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    opened[0].hangs.clear()

    async def story() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await retriever.ready()
        assert opened[0].looks == 1
        # The store is away, and that is no reason to replace this replica.
        await retriever.check_health()
        opened[0].hangs.set()
        await retriever.ready()
        await retriever.ready()
        assert opened[0].looks == 2

    asyncio.run(story())


def test_many_texts_are_embedded_in_slices_and_a_call_can_end_between_two(opened: list[Index]) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    texts = [str(number) for number in range(3 * EMBED_SLICE - 1)]

    async def story() -> None:
        vectors, tokens = await retriever.embed(texts)
        assert vectors[:, 0].tolist() == [float(text) for text in texts]
        assert tokens == len(texts)
        assert opened[0].kinds == [False] * 3
        await retriever.embed(texts[:1], True)
        assert opened[0].kinds[3:] == [True]
        opened[0].asked.clear()
        opened[0].hangs.clear()
        call = asyncio.create_task(retriever.embed(texts))
        await until(lambda: bool(opened[0].asked))
        call.cancel()
        opened[0].hangs.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(opened[0].asked) == 1

    asyncio.run(story())


def test_one_answers_vectors_are_of_one_embedder_when_the_collection_is_replaced_meanwhile(opened: list[Index]) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    first = opened[0]
    embed = first.embed

    async def story() -> None:
        loop = asyncio.get_running_loop()

        def replaced_after_the_first_slice(texts: list[str], **kind: bool) -> tuple[np.ndarray, int]:
            found = embed(texts, **kind)
            if len(opened) == 1:
                first.moved = True
                asyncio.run_coroutine_threadsafe(retriever._follow(), loop).result(10)
            return found

        first.embed = replaced_after_the_first_slice  # type: ignore[method-assign]
        await retriever.embed(["1"] * 3 * EMBED_SLICE)
        assert [len(opened), len(first.asked), len(opened[1].asked)] == [2, 3, 0]
        # The next call is the new one's.
        await retriever.embed(["1"])
        assert [len(first.asked), len(opened[1].asked)] == [3, 1]

    asyncio.run(story())


def test_questions_whose_vectors_were_kept_are_counted(opened: list[Index], monkeypatch: pytest.MonkeyPatch) -> None:
    totals: list[tuple[int, int]] = []
    monkeypatch.setattr(searching, "QuestionMeter", lambda: lambda *counted: totals.append(counted))
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    opened[0].remembered = (3, 4)
    asyncio.run(retriever._search([call("a")]))
    assert totals == [(3, 4)]
