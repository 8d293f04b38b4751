"""Retrieving once for all arms, and keeping it: a comparison that goes on after a crash shows the same passages."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from tandem.data.containment import contains
from tandem.data.rows import QaRow
from tandem.errors import DataError
from tandem.evaluation.asking.arms import Arm, Contexts, Passage
from tandem.evaluation.asking.items import read_saved, save
from tandem.specs.compare import CompareSpec
from tandem.specs.search import SearchSpec

BATCH = 32
# Of the gold document so many passages per one shown are looked at, to find those with the answer in them.
GOLD_CANDIDATES = 8


class Searcher(Protocol):
    """The part of `tandem.retrieval.retriever.Retriever` that a comparison needs."""

    def search(
        self, questions: Sequence[str], how: SearchSpec, *, filter: dict[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        """Passages for each question, best first."""
        ...


def contexts_for(
    spec: CompareSpec,
    arms: Sequence[Arm],
    rows: Sequence[QaRow],
    path: Path,
    open_searcher: Callable[[], tuple[Searcher, Mapping[str, Any]]],
    progress: Callable[[int, int], None],
) -> Contexts:
    """What the arms may show: read from `path` if it was retrieved before, else retrieved and saved there.

    Args:
        spec: Collection, tenant and top_k.
        arms: Which decide what is needed.
        rows: The questions.
        path: Where it is kept between attempts.
        open_searcher: Gives a retriever, and what is known of its collection; called only when needed.
        progress: Called with questions done, questions in all.

    Raises:
        DataError: The oracle is an arm and a question has no gold document.
    """
    kinds = {arm.context for arm in arms}
    if kinds == {"none"}:
        return Contexts({}, {}, 0.0, {})
    if "gold" in kinds and (lacking := [row.id for row in rows if row.source is None]):
        raise DataError(
            f"arm 'oracle' needs the gold document: {len(lacking)} questions have no `source`, the first: {lacking[0]}",
            where=spec.eval,
            remedy="add the column, or leave the arm out",
        )
    asked = "\n".join(f"{row.id}\t{row.question}\t{row.source}" for row in rows)
    settings = f"{spec.collection}\t{spec.tenant}\t{spec.top_k}\t{sorted(kinds)}"
    key = hashlib.sha256(f"{settings}\n{asked}".encode()).hexdigest()
    saved = read_saved(path, key)
    if saved is None:
        searcher, index = open_searcher()
        started = time.perf_counter()
        retrieved = _retrieve(searcher, rows, spec.top_k, progress) if "retrieved" in kinds else {}
        gold = _gold(searcher, rows, spec.top_k) if "gold" in kinds else {}
        seconds = (time.perf_counter() - started) / (len(rows) * len(kinds & {"retrieved", "gold"}))
        # What is kept is what is used, at the first attempt too.
        saved = {
            "retrieved": {id: [asdict(passage) for passage in found] for id, found in retrieved.items()},
            "gold": {id: [asdict(passage) for passage in found] for id, found in gold.items()},
            "seconds": seconds,
            "index": dict(index),
        }
        save(path, key, saved)
    return Contexts(_passages(saved["retrieved"]), _passages(saved["gold"]), saved["seconds"], saved["index"])


def _passages(saved: Mapping[str, Any]) -> dict[str, list[Passage]]:
    return {id: [Passage(**passage) for passage in found] for id, found in saved.items()}


def _retrieve(
    searcher: Searcher, rows: Sequence[QaRow], top_k: int, progress: Callable[[int, int], None]
) -> dict[str, list[Passage]]:
    found: dict[str, list[Passage]] = {}
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        results = searcher.search([row.question for row in batch], SearchSpec(top_k=top_k))
        found |= {row.id: [_passage(hit) for hit in hits] for row, hits in zip(batch, results, strict=True)}
        progress(len(found), len(rows))
    return found


def _gold(searcher: Searcher, rows: Sequence[QaRow], top_k: int) -> dict[str, list[Passage]]:
    by_source: dict[str, list[QaRow]] = defaultdict(list)
    for row in rows:
        if row.source is not None:
            by_source[row.source].append(row)
    found: dict[str, list[Passage]] = {}
    for source, group in by_source.items():
        questions = [row.question for row in group]
        results = searcher.search(questions, SearchSpec(top_k=top_k * GOLD_CANDIDATES), filter={"source": source})
        for row, hits in zip(group, results, strict=True):
            passages = [_passage(hit) for hit in hits]
            # A stable sort: those with an answer first, each kind in the retriever's order.
            passages.sort(key=lambda passage: not any(contains(passage.text, answer) for answer in row.answers))
            found[row.id] = passages[:top_k]
    return found


def _passage(hit: Any) -> Passage:
    return Passage(str(hit.id), hit.source, hit.section or "", float(hit.score), hit.text)
