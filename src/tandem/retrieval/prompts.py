"""What an embedder was trained to read before a question, and before a passage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.errors import ModelError

CONFIGURATION = "config_sentence_transformers.json"
# sentence-transformers' names, in the order in which its `encode_query` and `encode_document` look for them.
_QUERY = ("query",)
_PASSAGE = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Prompts:
    """What is put before texts.

    Args:
        query: Before a question; empty for nothing.
        passage: Before a passage; empty for nothing.
    """

    query: str = ""
    passage: str = ""


def find_prompts(model_path: Path, query: str | None = None, passage: str | None = None) -> Prompts:
    """An embedder's prompts: those that are given, else its own, by its configuration.

    Its own are those of sentence-transformers' `encode_query` and `encode_document`, which leave `default_prompt_name`
    aside; and `passage` or `corpus` also where the configuration has an empty `document`, as every model that
    sentence-transformers saved.

    Args:
        model_path: The embedder's folder.
        query: Before a question; None: the model's own.
        passage: Before a passage; None: the model's own.

    Raises:
        ModelError: Its configuration can't be read.
    """
    own = _configured(model_path / CONFIGURATION)
    return Prompts(
        _first(own, _QUERY) if query is None else query,
        _first(own, _PASSAGE) if passage is None else passage,
    )


def _first(prompts: dict[str, str], names: tuple[str, ...]) -> str:
    return next((prompts[name] for name in names if prompts.get(name)), "")


def _configured(path: Path) -> dict[str, str]:
    try:
        stated: Any = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        stated = None
    prompts = (stated.get("prompts") or {}) if isinstance(stated, dict) else None
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ModelError(
            "its prompts can't be read: not JSON, or `prompts` in it aren't texts by name",
            where=str(path),
            remedy="fetch the model again, or mend the file",
        )
    return prompts
