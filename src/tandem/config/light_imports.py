"""Imports without what a library imports only because it is installed.

A worker imports its libraries before it does anything, and a job has several of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(*packages: str) -> Iterator[None]:
    """Let packages that nobody has imported yet look as if they weren't installed; afterwards they are there again."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None stands for what can't be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def skip_scipy() -> None:
    """Keep transformers from importing SciPy and scikit-learn in this process.

    It would for ways to generate and losses that aren't used here (a threshold that learns, objects in pictures),
    together with the modules by which any model or tokenizer is found. What it finds first it remembers: call this
    before. Of twelve seconds of processor time that a training worker's imports take, three to four.
    """
    with absent("scipy", "sklearn"):
        from transformers.utils import is_scipy_available, is_sklearn_available

        is_scipy_available(), is_sklearn_available()
