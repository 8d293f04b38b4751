from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tandem.config.cluster import Cluster
from tandem.errors import NotFoundError, SpecError
from tandem.retrieval import retriever as retrieval
from tandem.serving import replicas
from tandem.serving.replicas import Ingress, Retriever
from tandem.specs.search import SearchSpec

SPEC = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs", "top_k": 2}}


class Index:
    """A retriever of one collection; `moved` is where its name has gone since."""

    def __init__(self, collection: str) -> None:
        self.collection = collection
        self.moved = False
        self.dropped = False
        self.asked: list[list[str]] = []

    def search(self, questions: list[str], how: SearchSpec, **visible: object) -> list[list[str]]:
        if self.dropped:
            raise NotFoundError("gone")
        self.asked.append(questions)
        return [[f"{question} {how.top_k} {visible} in {self.collection}"] for question in questions]

    def is_outdated(self, name: str) -> bool:
        assert name == "docs"
        return self.moved


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Index]]:
    """The retrievers that were opened."""
    found: list[Index] = []

    def open_retriever(cluster: Cluster, collection: str, rerank: object, *, remembered: int) -> Index:
        assert (collection, rerank, remembered) == ("docs", None, 7)
        found.append(Index(f"docs-{len(found)}"))
        return found[-1]

    monkeypatch.setattr(retrieval, "open_retriever", open_retriever)
    monkeypatch.setattr(Cluster, "load", lambda _: None)
    threads = torch.get_num_threads()
    yield found
    torch.set_num_threads(threads)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def test_questions_that_come_together_are_searched_together_by_their_settings(opened: list[Index]) -> None:
    retriever = Retriever("storage", {"collection": "docs"}, 7)
    two, three = SearchSpec(top_k=2), SearchSpec(top_k=3)
    calls = [("a", (two, None, "null")), ("b", (three, "red", "null")), ("c", (two, None, "null"))]
    found = asyncio.run(retriever._search(calls))
    assert opened[0].asked == [["a", "c"], ["b"]]
    assert [passages[0].split()[:2] for passages in found] == [["a", "2"], ["b", "3"], ["c", "2"]]


def test_a_retriever_follows_its_collections_name(opened: list[Index]) -> None:
    async def ask() -> str:
        ((text,),) = await retriever._search([("a", (SearchSpec(), None, "null"))])
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


class Handle:
    def options(self, **_: object) -> Handle:
        return self


@pytest.fixture
def ingress(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> Ingress:
    monkeypatch.setattr(replicas, "load_tokenizer", lambda _: None)
    return Ingress(SPEC, "m", str(keys_file), retriever=Handle(), llm=Handle())


def test_what_a_running_replica_takes_over(ingress: Ingress) -> None:
    ingress.reconfigure({"retriever": {"collection": "docs", "top_k": 7}})
    assert ingress._service.spec.retriever.top_k == 7
    ingress.reconfigure({"adapters": [{"name": "tuned", "uri": "artifact:tuned"}], "default_model": "tuned"})
    assert ingress._service.adapter("app") == "tuned"
    # What isn't said any more is as the application's args say.
    ingress.reconfigure({})
    assert ingress._service.spec.retriever.top_k == 2


@pytest.mark.parametrize(
    ("user_config", "message"),
    [
        ({"model": "other"}, "can't change while it runs: model"),
        ({"retriever": {"collection": "docs", "top_k": "many"}}, r"retriever\.top_k"),
        ({"retriever": {"collection": "others"}}, "can't change while it runs: retriever.collection"),
        ({"cache": {"embeddings": 3}}, "can't change while it runs: cache.embeddings"),
        (
            {"retriever": {"collection": "docs", "rerank": {"model": "m"}}},
            "can't change while it runs: retriever.rerank",
        ),
    ],
)
def test_what_needs_a_new_replica_or_is_wrong_is_refused_and_nothing_changes(
    ingress: Ingress, user_config: dict, message: str
) -> None:
    before = ingress._service
    with pytest.raises(SpecError, match=message):
        ingress.reconfigure(user_config)
    assert ingress._service is before
