"""The retriever's deployment: searches the collection that a name stands for."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.config.cluster import Cluster
from tandem.config.machine import cores, limit_threads
from tandem.errors import NotFoundError, TandemError, UnreachableError
from tandem.serving.batching import Batcher
from tandem.serving.readiness import threads_turn
from tandem.serving.signals import QuestionMeter
from tandem.specs.rag import RetrieverSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tandem.retrieval.retriever import Passage
    from tandem.retrieval.retriever import Retriever as IndexRetriever
    from tandem.retrieval.store import Filter
    from tandem.specs.search import SearchSpec

    Settings = tuple[SearchSpec, str | None, str]  # how, tenant, filter as JSON
    Call = tuple[str, Settings, float]  # question, settings, when nobody waits for it any more

# Below Serve's own logger, whose files a replica writes.
logger = logging.getLogger("ray.serve.tandem")

RETRIEVER_BATCH = 32
FOLLOW_S = 5.0  # between two looks at what the collection's name stands for
EMBED_SLICE = 64  # texts; between two slices a call can end, and searches get their turn
MOST_THREADS = 4  # one short question gains nothing from more


class Retriever:
    """Searches the collection that a name stands for; questions that arrive together are embedded together.

    Args:
        storage: The cluster's storage folder.
        spec: What is searched, and with which reranker, as JSON types; how, each search says.
        remembered: Questions whose vectors are kept.
        rag_model: The folder of a RAG model, whose question encoder takes the place of the collection's embedder.
    """

    def __init__(self, storage: str, spec: dict[str, Any], remembered: int, rag_model: str | None = None) -> None:
        from tandem.models.rag_sequence import QuestionEncoder

        limit_threads(embedding_threads())
        self._cluster = Cluster.load(Path(storage))
        self._spec = RetrieverSpec.model_validate(spec)
        self._remembered = remembered
        self._questions = QuestionEncoder(Path(rag_model)) if rag_model else None
        self._retriever = self._open()
        self._look_at = time.monotonic() + FOLLOW_S
        self._following: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[bool] | None = None
        self._count_questions = QuestionMeter()
        self._batched = Batcher(self._search, max_size=RETRIEVER_BATCH)

    async def search(
        self, question: str, how: SearchSpec, tenant: str | None, filter: Filter | None, within_s: float
    ) -> list[Passage]:
        """Passages for a question, best first; of the tenant alone, if there is one, and within the filter.

        Args:
            question: What is searched for.
            how: The search.
            tenant: Its passages and nobody's; None for all.
            filter: Fields that must have a value.
            within_s: Seconds; after them nobody waits for it.

        Raises:
            UnreachableError: It took longer, or the store can't be reached.
        """
        ends = time.monotonic() + within_s
        found = await self._batched((question, (how, tenant, json.dumps(filter)), ends))
        if isinstance(found, Exception):
            raise found
        return found

    async def embed(self, texts: list[str], question: bool = False) -> tuple[NDArray[np.float32], int]:
        """Vectors as the collection's, or as questions', float32, (texts, dimension); and the tokens that were read."""
        import numpy as np

        retriever = self._retriever  # all of an answer by one embedder, whatever the name stands for meanwhile
        parts = [
            await asyncio.to_thread(retriever.embed, texts[begin : begin + EMBED_SLICE], question=question)
            for begin in range(0, len(texts), EMBED_SLICE)
        ]
        return np.concatenate([vectors for vectors, _ in parts]), sum(tokens for _, tokens in parts)

    async def ready(self) -> None:
        """Returns when the store answers.

        Raises:
            UnreachableError: It doesn't.
        """
        # One look at a time: while the store hangs each would hold a thread.
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(self._retriever.is_outdated, self._spec.collection))
        await asyncio.shield(self._looking)

    async def check_health(self) -> None:
        """Fails when its threads are stuck, so that Serve replaces the replica; not when the store is away."""
        await threads_turn()

    async def _search(self, calls: list[Call]) -> list[list[Passage] | Exception]:
        """What each call found, or why it failed: those that came together may be anybody's."""
        now = time.monotonic()
        # Beside the searches: the collection that the name stood for until now is kept for a rollback.
        if now >= self._look_at and (self._following is None or self._following.done()):
            self._look_at = now + FOLLOW_S
            self._following = asyncio.create_task(self._follow())
        found: list[list[Passage] | Exception] = [_too_late() for _ in calls]
        groups: dict[Settings, list[int]] = {}
        for index, (_, settings, ends) in enumerate(calls):
            if ends > now:
                groups.setdefault(settings, []).append(index)
        for settings, members in groups.items():
            questions = [calls[index][0] for index in members]
            try:
                results = await self._together(questions, settings, max(calls[index][2] for index in members))
            except Exception as error:  # noqa: BLE001 - raised again for each of its callers, and for no other's
                results = [error] * len(members)
            for index, result in zip(members, results, strict=True):
                found[index] = result
        self._count_questions(*self._retriever.remembered)
        return found

    async def _together(self, questions: list[str], settings: Settings, ends: float) -> list[list[Passage] | Exception]:
        how, tenant, narrowed = settings
        filter = json.loads(narrowed)
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                try:
                    return await self._ask(questions, how, tenant, filter, ends)
                except NotFoundError:
                    # The collection was dropped since the last look: its name stands for another, or for none.
                    await self._follow()
                    return await self._ask(questions, how, tenant, filter, ends)
        except TimeoutError:
            # Its thread ends by itself: the store was given the same time.
            raise _too_late() from None

    async def _ask(
        self, questions: list[str], how: SearchSpec, tenant: str | None, filter: Filter | None, ends: float
    ) -> list[list[Passage] | Exception]:
        # In a thread: embedding takes milliseconds of processor time, and the replica's event loop must turn.
        found = await asyncio.to_thread(
            self._retriever.search,
            questions,
            how,
            tenant=tenant,
            filter=filter,
            within_s=ends - time.monotonic(),
        )
        return list(found)

    async def _follow(self) -> None:
        try:
            if await asyncio.to_thread(self._retriever.is_outdated, self._spec.collection):
                self._retriever = await asyncio.to_thread(self._open)
                logger.info("%s is %s from now on", self._spec.collection, self._retriever.collection)
        except TandemError as error:
            # What is open goes on answering; the next look comes soon.
            logger.warning("can't follow the collection %s: %s", self._spec.collection, error)

    def _open(self) -> IndexRetriever:
        from tandem.retrieval.retriever import open_retriever

        return open_retriever(
            self._cluster,
            self._spec.collection,
            self._spec.rerank,
            remembered=self._remembered,
            questions=self._questions,
            quick=self._spec.dtype == "auto",
        )


def embedding_threads() -> int:
    """Of a computation, for questions: more than Ray allows a tenth of a CPU; with all cores the engine would wait."""
    return max(1, min(MOST_THREADS, cores() // 2))


def _too_late() -> UnreachableError:
    return UnreachableError("the search took longer than its caller waits")
