"""Whether an answer stands in a text: the same for training, which looks for gold passages, and for measuring."""

from __future__ import annotations

import re

_ARTICLE = re.compile(r"^(?:a|an|the) ")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_QUOTES = "\"'`“”‘’"


def contains(text: str, answer: str) -> bool:
    """Whether an answer stands in a text, as whole words and whole numbers.

    Letter case, white space, a comma before three digits, a first article, and the answer's quotes and full stop count
    for nothing; its other punctuation does: ``[]`` is no ``{}``, and ``2.0`` neither 20 nor a part of 2.0.1.

    Args:
        text: For example a passage.
        answer: A reference answer; an empty one stands nowhere.
    """
    wanted, within = _plain(answer), f" {_plain(text)} "
    wanted = _ARTICLE.sub("", wanted.lstrip(_QUOTES).rstrip(_QUOTES + ".,;:!?")).strip() or wanted
    return bool(wanted) and wanted in within and re.search(_whole(wanted), within) is not None


def _plain(text: str) -> str:
    return " ".join(_THOUSANDS.sub("", text.casefold()).split())


def _whole(wanted: str) -> str:
    """A pattern for it where it is no part of a longer word or number, nor of a negative one."""
    first, last = wanted[0], wanted[-1]
    before = (r"(?<!\w)" if re.match(r"\w", first) else "") + (r"(?<!\d[.,])(?<!\W-)" if first.isdigit() else "")
    after = (r"(?!\w)" if re.match(r"\w", last) else "") + (r"(?![.,]\d)" if last.isdigit() else "")
    return before + re.escape(wanted) + after
