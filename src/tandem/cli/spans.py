"""Spans of time as a person writes them."""

from __future__ import annotations

import re
from datetime import timedelta

_SPAN = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_span(text: str) -> timedelta | None:
    """``90s``, ``30m``, ``12h``, ``7d`` or ``2w``; None where it is something else.

    Raises:
        OverflowError: Longer than a time can be.
    """
    span = _SPAN.fullmatch(text)
    return None if span is None else timedelta(**{_UNITS[span[2]]: int(span[1])})
