"""When two answers count as the same: the SQuAD normalisation, and where we leave it."""

from __future__ import annotations

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROPPED = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower-case, drop ASCII punctuation and English articles, collapse white space.

    The order of steps and the rules are those of the SQuAD v1.1 script (Rajpurkar et al., arXiv 1606.05250), with one
    exception: a text of which nothing would be left stays as it is, lower-cased and with single spaces. In technical
    answers ``[]``, ``{}``, ``()``, ``''`` and ``*`` are answers, different ones; the published rules make all of them
    equal to each other and to no answer at all.

    Args:
        text: An answer as given, or as generated.

    Returns:
        The normal form; empty only for a text of white space alone.
    """
    lowered = text.lower()
    normal = " ".join(_ARTICLES.sub(" ", lowered.translate(_DROPPED)).split())
    return normal or " ".join(lowered.split())


def tokens(text: str) -> list[str]:
    """The words of the normal form, over which token F1 counts."""
    return normalize(text).split()
