"""What the endpoint's integration tests search, and who may see what of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

DOCUMENTS = {
    "documents.jsonl#1": {"tenant": "acme", "text": "The quick brown fox jumps over the lazy dog."},
    "documents.jsonl#2": {"tenant": "acme", "text": "Tandem trains and retrieves."},
    "documents.jsonl#3": {"tenant": "acme", "text": "The fox of acme jumps at nine."},
    "documents.jsonl#4": {"tenant": "globex", "text": "The fox of globex jumps at ten."},
}
ADAPTERS = ("tuned", "other", "third")
TENANTS = {"key-of-all": "*", "key-of-acme": "acme", "key-of-globex": "globex"}


def eventually(condition: Callable[[], bool], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def write_docs(folder: Path) -> Path:
    """A folder of three files that make four chunks."""
    (folder / "sub").mkdir(parents=True)
    (folder / "fox.md").write_text("# Fox\n\nThe quick brown fox jumps.\n\n## Food\n\nThe lazy dog sleeps.\n")
    (folder / "sub" / "numbers.rst").write_text("Numbers\n=======\n\nZero 0 and one 1.\n")
    (folder / "plain.txt").write_text("Answer the question as briefly as you can.\n")
    return folder
