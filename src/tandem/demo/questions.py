"""Questions with known answers, made mechanically from Django's documentation.

Two kinds: `settings` (ref/settings.txt states the default of each setting in a line of its own: short, exact answers)
and `faq` (faq/*.txt: the heading asks, the first paragraph answers: long ones). Nothing is written by hand or by a
model, so nobody can have tuned the questions to the system.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.config.files import write_whole

EVALUATION_SHARE = 0.35
_UNDERLINE = re.compile(r"([=\-~^])\1{2,}")
_CLASS_DEFAULT = re.compile(r"^Default: ``'``:class:`([^`]+)`\\ ``'``", re.MULTILINE)
_PLAIN_DEFAULT = re.compile(r"^Default: ``(.+?)``", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A section of a reST document: heading, depth (the title has 0), and the text up to the next heading."""

    heading: str
    depth: int
    body: str


def sections(text: str) -> Iterator[Section]:
    """The sections of a reST document, in order. Depth follows the order in which underlines first appear."""
    lines = text.splitlines()
    at = [
        number
        for number in range(len(lines) - 1)
        if lines[number].strip()
        and _UNDERLINE.fullmatch(lines[number + 1])
        and not _UNDERLINE.fullmatch(lines[number])
        and len(lines[number + 1]) >= len(lines[number].rstrip())
    ]
    styles: list[tuple[str, bool]] = []
    for position, number in enumerate(at):
        overlined = number > 0 and lines[number - 1] == lines[number + 1]
        style = (lines[number + 1][0], overlined)
        if style not in styles:
            styles.append(style)
        end = at[position + 1] if position + 1 < len(at) else len(lines)
        yield Section(lines[number].strip(), styles.index(style), "\n".join(lines[number + 2 : end]))


def plain(text: str) -> str:
    """ReST inline markup as a reader sees it, on one line."""
    text = re.sub(r":[\w:]+:`~?([^`<]*?)\s*<[^`>]*>`", r"\1", text)  # :role:`text <target>`
    text = re.sub(r":[\w:]+:`[~!]?([^`]*)`", r"\1", text)  # :role:`text`
    text = re.sub(r"`([^`<]+?)\s*<[^`>]*>`__?", r"\1", text)  # `text <link>`_
    text = re.sub(r"``(.+?)``", r"\1", text)
    text = re.sub(r"`([^`]+)`_{0,2}", r"\1", text)
    return re.sub(r"\s+", " ", re.sub(r"\*\*?([^*]+)\*\*?", r"\1", text)).strip()


def settings_questions(docs: Path) -> list[dict[str, Any]]:
    """One row for each setting whose default ref/settings.txt states on one line."""
    source = "ref/settings.txt"
    rows = []
    for section in sections((docs / source).read_text(encoding="utf-8")):
        name = section.heading.strip("`")
        if section.depth != 2 or not re.fullmatch(r"[A-Z0-9_]+", name):  # deeper ones repeat names: BACKEND, OPTIONS
            continue
        by_class = _CLASS_DEFAULT.search(section.body)
        default = by_class or _PLAIN_DEFAULT.search(section.body)
        if default is None:
            continue
        answers = [f"'{default[1]}'", default[1]] if by_class else [default[1]]
        question = f"What is the default value of the Django setting {name}?"
        rows.append(
            {"id": f"setting-{name}", "question": question, "answers": answers, "source": source, "kind": "settings"}
        )
    return rows


def faq_questions(docs: Path) -> list[dict[str, Any]]:
    """One row for each section of the FAQ: the heading asks, the first paragraph answers."""
    rows = []
    for path in sorted((docs / "faq").glob("*.txt")):
        for number, section in enumerate(sections(path.read_text(encoding="utf-8"))):
            paragraphs = [
                p for p in re.split(r"\n\s*\n", section.body) if p.strip() and not p.lstrip().startswith("..")
            ]
            if section.depth == 0 or not paragraphs:
                continue
            row = {
                "id": f"faq-{path.stem}-{number}",
                "question": plain(section.heading),
                "answers": [plain(paragraphs[0])],
            }
            rows.append({**row, "source": f"faq/{path.name}", "kind": "faq"})
    return rows


def write_questions(docs: Path, folder: Path) -> dict[str, Path]:
    """Write the frozen splits: a row's side depends on a hash of its id alone.

    Args:
        docs: Django's docs folder.
        folder: Where ``train.jsonl`` and ``eval.jsonl`` go.

    Returns:
        The path of each split.
    """
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    for row in settings_questions(docs) + faq_questions(docs):
        place = int.from_bytes(hashlib.sha256(row["id"].encode()).digest()[:8], "big") / 2**64
        splits["eval" if place < EVALUATION_SHARE else "train"].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, rows in splits.items():
        paths[name] = folder / f"{name}.jsonl"
        write_whole(paths[name], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return paths
