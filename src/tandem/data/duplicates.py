"""Texts that are the same, or nearly: they must not stand on both sides of a split.

Two texts are the same when their words are, whatever their case, punctuation and white space. They are nearly the same
when they share at least four fifths of their five-word shingles (resemblance: Broder 1997); candidates come from
min-wise hashing with banding (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3), and are then compared
in full.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np

RESEMBLANCE = 0.8  # Jaccard, from which on two texts are near-duplicates
SHINGLE = 5  # words
# A pair at 0.8 shares one of 16 bands of 4 hashes with a probability of 1 - (1 - 0.8^4)^16 = 0.9998.
BANDS, ROWS = 16, 4
_PRIME = (1 << 31) - 1  # products of two numbers below it fit into 64 bits
_WORD = re.compile(r"\w+")

_Ints = np.ndarray[Any, np.dtype[np.uint64]]


def text_key(text: str) -> str:
    """The words of a text, lower-cased, with single spaces; a text without words is its own key."""
    return " ".join(_WORD.findall(text.lower())) or " ".join(text.split())


def text_digest(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of a text's `text_key`: the same for texts that are the same."""
    return hashlib.sha256(text_key(text).encode()).hexdigest()[:16]


def near_duplicates(keys: Sequence[str]) -> list[int]:
    """For each text the group that it belongs to, numbered by its first member's place.

    Near-duplicates of near-duplicates are in one group. Texts of fewer than five words only join their equals.

    Args:
        keys: `text_key` of each text.

    Returns:
        As many indices into `keys`; a text that is like no other has its own.
    """
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_of: dict[str, int] = {}
    buckets: dict[tuple[int, bytes], list[int]] = {}
    signed: dict[int, _Ints] = {}
    factors, offsets = _permutations()
    for index, key in enumerate(keys):
        first = first_of.setdefault(key, index)
        if first != index:
            parent[root(index)] = root(first)
            continue
        shingles = _shingles(key)
        if not len(shingles):
            continue
        signed[index] = shingles
        signature = ((factors * shingles + offsets) % _PRIME).min(axis=1)  # (BANDS × ROWS,)
        for band in range(BANDS):
            buckets.setdefault((band, signature[band * ROWS : (band + 1) * ROWS].tobytes()), []).append(index)
    for members in buckets.values():
        for a, b in _pairs(members):
            one, other = sorted((root(a), root(b)))
            if one != other and _resemblance(signed[a], signed[b]) >= RESEMBLANCE:
                parent[other] = one
    return [root(index) for index in range(len(keys))]


def _pairs(members: Sequence[int]) -> Iterable[tuple[int, int]]:
    # Each with the one before: enough to join a bucket of like texts, and linear where a bucket is huge.
    return pairwise(members)


def _shingles(key: str) -> _Ints:
    words = key.split()
    found = {crc32(" ".join(words[at : at + SHINGLE]).encode()) % _PRIME for at in range(len(words) - SHINGLE + 1)}
    return np.fromiter(found, dtype=np.uint64, count=len(found))


def _permutations() -> tuple[_Ints, _Ints]:
    chance = np.random.default_rng(0)  # fixed: the groups of a set never change
    size = (BANDS * ROWS, 1)
    return (
        chance.integers(1, _PRIME, size, dtype=np.uint64),
        chance.integers(0, _PRIME, size, dtype=np.uint64),
    )


def _resemblance(a: _Ints, b: _Ints) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
