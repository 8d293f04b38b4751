"""What an arm may have seen before: questions that nearly repeat training questions, passages, or each other.

What counts as nearly the same question, and why, is said in `tandem.data.likeness`. A question stands nearly word for
word in a passage when a part of the passage, at most a quarter longer than the question, has all of its content words
and four fifths of its five-word shingles (containment: Broder 1997). One of fewer than five words isn't looked for,
since a passage that answers it may well have them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Literal

import numpy as np

from tandem.data.duplicates import RESEMBLANCE, SHINGLE, text_key
from tandem.data.likeness import Fingerprints, content_words, find_alike, find_repeats
from tandem.data.rows import QaRow
from tandem.data.train_rows import scan_asked
from tandem.errors import DataError
from tandem.evaluation.asking.adapters import Adapter
from tandem.evaluation.asking.arms import Passage
from tandem.evaluation.schema import NearDuplicates

EXAMPLES = 3  # of each kind

Shingle = tuple[str, ...]


def near_duplicates_of_training(adapters: Sequence[Adapter], rows: Sequence[QaRow]) -> dict[str, str]:
    """Evaluation questions that nearly repeat one that an adapter was trained on.

    Args:
        adapters: Of all arms; of one without a file of its training rows nothing is found.
        rows: The questions.

    Returns:
        By id of the question, whose training it repeats.
    """
    found: dict[str, str] = {}
    prints = Fingerprints.of(row.question for row in rows)
    for adapter in adapters:
        if adapter.train_rows is None:
            continue
        for asked, ids in scan_asked(adapter.train_rows):
            left = np.array([row.id not in found for row in rows], dtype=np.bool_)
            places = find_alike(prints.take(left), asked)
            for row, place in zip(np.flatnonzero(left), places, strict=True):
                if place >= 0:
                    found[rows[row].id] = f"{adapter.uri}: row {ids[int(place)].as_py()}"
    return found


def kept_questions(
    rows: Sequence[QaRow], repeated: Mapping[str, str], what: Literal["report", "exclude"], *, where: str
) -> list[QaRow]:
    """The questions to ask: all, or without those that nearly repeat a training question.

    Args:
        rows: The questions.
        repeated: By id, those that do.
        what: As the spec says.
        where: Their file.

    Raises:
        DataError: None is left.
    """
    kept = [row for row in rows if what == "report" or row.id not in repeated]
    if not kept:
        raise DataError(
            f"all {len(rows)} questions nearly repeat one that was trained on",
            where=where,
            remedy="evaluate on other questions, or see what `near_duplicates: report` says of them",
        )
    return kept


def find_near_duplicates(
    asked: Sequence[QaRow],
    adapters: Sequence[Adapter],
    repeated: Mapping[str, str],
    retrieved: Mapping[str, Sequence[Passage]],
    *,
    excluded: int,
) -> NearDuplicates:
    """All that was found, for the report.

    Args:
        asked: The questions asked.
        adapters: Of all arms.
        repeated: By id, whose training a question of the file nearly repeats.
        retrieved: By id, the passages found for a question.
        excluded: How many questions were left out for it.
    """
    trained = [(row.id, repeated[row.id]) for row in asked if row.id in repeated]
    left_out = [(id, what) for id, what in repeated.items() if excluded][:EXAMPLES]
    places = find_repeats(Fingerprints.of(row.question for row in asked))
    again = [(row.id, f"question {asked[place].id}") for row, place in zip(asked, places, strict=True) if place >= 0]
    indexed = [
        (row.id, f"passage {passage.id} of {passage.source}")
        for row in asked
        if (passage := _holding(row.question, retrieved.get(row.id, ()))) is not None
    ]
    unknown = any(adapter.train_rows is None for adapter in adapters)
    return NearDuplicates(
        training=None if unknown and not repeated else len(trained) + excluded,
        index=len(indexed),
        evaluation=len(again),
        examples=(*left_out, *trained[:EXAMPLES], *indexed[:EXAMPLES], *again[:EXAMPLES]),
        excluded=excluded,
    )


def near_duplicate_notes(found: NearDuplicates, *, asked: int) -> list[str]:
    """What a reader should know of them; empty where there are none."""
    notes = []
    seen = (found.training or 0) - found.excluded
    if found.excluded:
        notes.append(f"Left out, as they nearly repeat what an adapter was trained on: {found.excluded} questions.")
    if seen:
        notes.append(
            f"An adapter was trained on nearly the same as {seen} of the {asked} questions, and may answer them from "
            "memory: `near_duplicates: exclude` leaves them out."
        )
    if found.index:
        notes.append(
            f"Retrieved passages hold {found.index} of the {asked} questions nearly word for word, as lists of "
            "questions and answers do: to retrieve for those is easier than for others."
        )
    if found.evaluation:
        notes.append(
            f"Among the {asked} questions, {found.evaluation} nearly repeat an earlier one and count as others do: the "
            "intervals are a little too narrow."
        )
    return notes


def _holding(question: str, passages: Sequence[Passage]) -> Passage | None:
    """The first passage in which a question stands nearly word for word."""
    key = text_key(question)
    words, content = key.split(), set(content_words(key))
    places = {shingle: place for place, shingle in enumerate(_shingles(words))}
    for passage in passages if places else ():
        said = text_key(passage.text).split()
        if content <= set(said) and any(_stands_in(part, places, content) for part in _parts(said, places, len(words))):
            return passage
    return None


def _parts(said: Sequence[str], places: Mapping[Shingle, int], length: int) -> Iterator[Sequence[str]]:
    """Where in a passage a question may stand: a list of like questions has the words of any, but not together."""
    for start in {at - places[shingle] for at, shingle in enumerate(_shingles(said)) if shingle in places}:
        yield said[max(start, 0) : start + math.ceil(length / RESEMBLANCE)]


def _stands_in(part: Sequence[str], places: Mapping[Shingle, int], content: Set[str]) -> bool:
    return content <= set(part) and len(places.keys() & set(_shingles(part))) >= RESEMBLANCE * len(places)


def _shingles(words: Sequence[str]) -> list[Shingle]:
    return list(zip(*(words[at:] for at in range(SHINGLE)), strict=False))
