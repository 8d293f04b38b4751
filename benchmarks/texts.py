"""Real text to measure with: the documentation that the demo takes its documents from, and installed packages' own."""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandem.data.documents import Document

ROOT = Path(__file__).parents[1]
PARAGRAPH = (60, 300)  # characters


def documents() -> Iterator[Document]:
    """All text files of the sources of jobs/index.yaml; its own globs choose a few."""
    from tandem.artifacts.uris import resolve
    from tandem.config.cluster import storage_path
    from tandem.data.documents import list_files, read_file
    from tandem.specs import IndexSpec
    from tandem.specs.loading import read_yaml

    spec = IndexSpec.model_validate(read_yaml(ROOT / "jobs" / "index.yaml").data)
    for source in spec.sources:
        root = str(resolve(source.uri, storage=storage_path()))
        for name, file in list_files(source.model_copy(update={"include": ("**/*.txt",)}), root):
            yield from read_file(file, name).documents


def paragraphs(count: int) -> list[str]:
    """The first so many different paragraphs.

    Raises:
        ValueError: There are fewer.
    """
    found: dict[str, None] = {}
    for document in documents():
        blocks = (" ".join(block.split()) for block in document.text.split("\n\n"))
        found |= dict.fromkeys(block for block in blocks if PARAGRAPH[0] <= len(block) <= PARAGRAPH[1])
        if len(found) >= count:
            return list(found)[:count]
    raise ValueError(f"the documents of jobs/index.yaml have {len(found)} paragraphs, {count} are needed")


def docstrings() -> Iterator[str]:
    """What the packages that are installed here say of their modules, classes and functions."""
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ast.get_docstring(node, clean=False) or ""


def pieces(count: int, words: int, *, step: int | None = None, more: Iterable[str] = ()) -> list[str]:
    """So many different pieces of so many words, by chance, the same ones every time.

    Args:
        count: How many.
        words: In each.
        step: Words from the beginning of one to the next; smaller than `words`, and they overlap.
        more: Texts to take them from beside the documents.

    Raises:
        ValueError: There are fewer.
    """
    found: dict[str, None] = {}
    for whole in chain((document.text for document in documents()), more):
        text = whole.split()
        found.update((" ".join(text[at : at + words]), None) for at in range(0, len(text) - words, step or words))
    if len(found) < count:
        raise ValueError(f"the documents have {len(found)} such pieces, {count} are needed")
    return random.Random(0).sample(list(found), count)
