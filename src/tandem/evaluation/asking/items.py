"""Answers as they come: appended to a file per arm, so that a comparison which was cut off goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.config.files import write_whole
from tandem.evaluation.asking.arms import Messages


@dataclass(frozen=True)
class Answer:
    """What an arm gave for one question.

    Attributes:
        id: The question's.
        key: What was asked of whom (`answer_key`): an answer to something else is not used again.
        prediction: The text; empty on failure.
        failure: Why there is none, or None.
        shown: Passages in the prompt.
        prompt_tokens: Of the prompt.
        completion_tokens: Of the answer.
        finish_reason: `stop`, `length`, or `failed`.
        latency_ms: As the engine measured it in its batch; None on failure.
        seconds: Wall time of the batch, divided by its questions.
    """

    id: str
    key: str
    prediction: str
    failure: str | None
    shown: int
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    latency_ms: float | None
    seconds: float


def answer_key(messages: Messages, **settings: Any) -> str:
    """SHA-256 (hex) over a prompt and all else on which its answer depends: weights, decoding, engine."""
    text = json.dumps([messages, settings], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerLog:
    """One arm's answers, a JSON line each, on disk before the next batch starts.

    Args:
        path: The file; it and its folder are made when the first answer comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Answer]:
        """Answers by key. What a killed process left half written is cut off."""
        if not self.path.exists():
            return {}
        whole, _, rest = self.path.read_bytes().rpartition(b"\n")
        if rest:
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        answers = (Answer(**json.loads(line)) for line in whole.splitlines())
        return {answer.key: answer for answer in answers}

    def append(self, answers: Sequence[Answer]) -> None:
        """Add answers, and return when they are on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
            file.flush()
            os.fsync(file.fileno())


def read_saved(path: Path, key: str) -> Mapping[str, Any] | None:
    """What an earlier attempt saved under the same key, or None."""
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return saved["data"] if saved["key"] == key else None


def save(path: Path, key: str, data: Mapping[str, Any]) -> None:
    """Keep what a later attempt may use again, in one step."""
    write_whole(path, json.dumps({"key": key, "data": data}, ensure_ascii=False))
