"""Whether a question nearly repeats another one, told from fingerprints: the other one's text isn't needed.

Questions made from a template differ in one word, and that word is the question: "What is the default value of the
Django setting A?" and "… B?" share five of their seven shingles. So letter case, marks, the order of words and
function words are ignored, and nothing else: two questions are near-duplicates when their other words are the same.
In a long one a word matters less. There it is enough to share four fifths of the five-word shingles (Jaccard's
resemblance: Broder 1997), the ends padded so that a word there counts like any other: a word added is let pass from
about 36 words on, another word in one's place from about 41.

That share is estimated from 8 bits of each of 128 min-wise hashes (Li & König, b-Bit Minwise Hashing, 2010), with a
standard deviation of 0.04; pairs to compare come from banding, as in `tandem.data.duplicates`. The shingles' own
hashes aren't kept: from a known beginning one could guess them word by word, and so read the question.

Function words are English ones: in other languages only case, marks and order are ignored. Where words aren't set apart
by spaces, only case and marks are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np

from tandem.data.duplicates import RESEMBLANCE, SHINGLE, text_key

# Not among them: what makes another question of one, such as who, when, should, not, from, to.
_FUNCTION_WORDS = (
    "a an the is are was were be been am do does did can could what which i you we me my our your of in on at for s "
    "please"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
CONTENT_WORDS = 3  # with fewer than these, all words count, in their order: "What is love?", "What do you love?"
LONG = 36  # words: of shorter ones no two share four fifths of their shingles, unless their words are the same
LONGEST = 200  # words: what is longer is a text, and compared only by its words
HASHES = 128  # of a signature, 8 bits each
MOST_ALIKE = 100  # rows that share a band: so many are looked at, or a template would pair everything with everything
_BAND = 4  # hashes: a pair that shares four fifths has the same 4 in one of 32 places with a probability above 0.9999
_PAIRS = 20_000  # compared at once
_PRIME = (1 << 31) - 1  # products of two numbers below it fit into 64 bits
# Two hashes that differ have the same 8 bits once in 256 times.
_ENOUGH = HASHES * (RESEMBLANCE + (1 - RESEMBLANCE) / 256)

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a question: none of its text, though whoever guesses the question can see that it is this one.

    Args:
        words: 64 bits of a hash of its content words, sorted.
        signature: `HASHES` bytes; None for a short question.
    """

    words: int
    signature: bytes | None


@dataclass(frozen=True)
class Fingerprints:
    """Those of many questions.

    Args:
        words: (questions,) uint64.
        long: (long,) int64, the places of those that have a signature, ascending.
        signatures: (long, `HASHES`) uint8.
    """

    words: _Array
    long: _Array
    signatures: _Array

    def __len__(self) -> int:
        return len(self.words)

    def take(self, chosen: _Array) -> Fingerprints:
        """Some of them, in their order.

        Args:
            chosen: (questions,) bool.
        """
        long = chosen[self.long]
        return Fingerprints(self.words[chosen], np.cumsum(chosen)[self.long[long]] - 1, self.signatures[long])

    @classmethod
    def of(cls, questions: Iterable[str]) -> Fingerprints:
        """The fingerprints of questions, in their order."""
        each = [fingerprint(question) for question in questions]
        return cls.join(np.array([one.words for one in each], dtype=np.uint64), [one.signature for one in each])

    @classmethod
    def join(cls, words: _Array, signatures: Sequence[bytes | None]) -> Fingerprints:
        """Those of as many questions as there are words and signatures."""
        long = [place for place, signature in enumerate(signatures) if signature is not None]
        whole = b"".join(signature for signature in signatures if signature is not None)
        return cls(words, np.array(long, dtype=np.int64), np.frombuffer(whole, dtype=np.uint8).reshape(-1, HASHES))


def fingerprint(question: str) -> Fingerprint:
    """What is to be remembered of a question."""
    key = text_key(question)
    words, content = key.split(), content_words(key)
    said = sorted(content) if len(content) >= CONTENT_WORDS else words
    digest = hashlib.blake2b(" ".join(said).encode(), digest_size=8).digest()
    signature = _signature(words) if LONG <= len(words) <= LONGEST else None
    return Fingerprint(int.from_bytes(digest, "big"), signature)


def _signature(words: Sequence[str]) -> bytes:
    ends = [""] * (SHINGLE - 1)
    padded = [*ends, *words, *ends]
    found = {crc32(" ".join(padded[at : at + SHINGLE]).encode()) % _PRIME for at in range(len(words) + SHINGLE - 1)}
    shingles = np.fromiter(found, dtype=np.uint64, count=len(found))
    factors, offsets = _permutations()
    least = ((factors * shingles + offsets) % _PRIME).min(axis=1)  # (HASHES,)
    return bytes(least.astype(np.uint8))


@cache
def _permutations() -> tuple[_Array, _Array]:
    chance = np.random.default_rng(0)  # fixed: signatures are kept
    size = (HASHES, 1)
    return (
        chance.integers(1, _PRIME, size, dtype=np.uint64),
        chance.integers(0, _PRIME, size, dtype=np.uint64),
    )


def content_words(key: str) -> list[str]:
    """The words of a text that aren't function words.

    Args:
        key: Its `text_key`.
    """
    return [word for word in key.split() if word not in FUNCTION_WORDS]


def questions_in(text: str) -> list[str]:
    """The sentences of a text that end in a question mark: a prompt's own question stands among its instructions."""
    sentences = re.split(r"(?<=[.!?:])\s+|\n+", text)
    return [sentence.strip() for sentence in sentences if sentence.rstrip("\"'”’)* ").endswith("?")]


def find_alike(asked: Fingerprints, known: Fingerprints) -> _Array:
    """For each question which known one it nearly repeats.

    Args:
        asked: To be looked up.
        known: To look in.

    Returns:
        (asked,) int64, places in `known`; -1 for none.
    """
    values, first = np.unique(known.words, return_index=True)
    found = np.full(len(asked), -1, dtype=np.int64)
    if not len(known) or not len(asked):
        return found
    place = np.minimum(np.searchsorted(values, asked.words), len(values) - 1)
    same = values[place] == asked.words
    found[same] = first[place[same]]
    for one, other in _resembling(asked, known):
        _note(found, one, other)
    return found


def find_repeats(asked: Fingerprints) -> _Array:
    """For each question which earlier one it nearly repeats.

    Returns:
        (asked,) int64, places in `asked`; -1 for none.
    """
    _, first, of = np.unique(asked.words, return_index=True, return_inverse=True)
    found = first[of]
    found[found == np.arange(len(asked))] = -1
    for one, other in _resembling(asked, asked):
        earlier = other < one
        _note(found, one[earlier], other[earlier])
    return found


def _note(found: _Array, one: _Array, other: _Array) -> None:
    new = found[one] < 0
    found[one[new][::-1]] = other[new][::-1]  # of several the first: it is written last


def _resembling(asked: Fingerprints, known: Fingerprints) -> Iterator[tuple[_Array, _Array]]:
    """Pairs of places, in `asked` and in `known`, whose signatures resemble each other: a part of them at a time."""
    bands_asked, bands_known = _bands(asked.signatures), _bands(known.signatures)
    for band in range(HASHES // _BAND):
        order = np.argsort(bands_known[:, band], kind="stable")
        codes = bands_known[order, band]
        begin = np.searchsorted(codes, bands_asked[:, band])
        counts = np.minimum(np.searchsorted(codes, bands_asked[:, band], side="right") - begin, MOST_ALIKE)
        rows = np.flatnonzero(counts)
        part = np.cumsum(counts[rows]) // _PAIRS
        for number in np.unique(part):
            some = rows[part == number]
            many = counts[some]
            within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            one, other = np.repeat(some, many), order[np.repeat(begin[some], many) + within]
            alike = (asked.signatures[one] == known.signatures[other]).sum(axis=1) >= _ENOUGH
            yield asked.long[one[alike]], known.long[other[alike]]


def _bands(signatures: _Array) -> _Array:
    """(questions, bands) uint32."""
    return np.ascontiguousarray(signatures).view(np.uint32)
