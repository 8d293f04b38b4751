"""What an adapter's manifest says: another base model is refused, what was trained on isn't asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.artifacts.manifest import MANIFEST, read_manifest, sha256_file
from tandem.artifacts.uris import resolve
from tandem.data.splits import question_key
from tandem.data.train_rows import SELECTION_ROWS, TRAIN_ROWS, among, read_answers, read_keys
from tandem.errors import DataError, ModelError, TandemError
from tandem.evaluation.figures.costs import Machine
from tandem.models.loading import adapter_path
from tandem.specs.base import PromptSpec
from tandem.specs.compare import PriceSpec

if TYPE_CHECKING:
    from tandem.data.rows import QaRow

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter and what is known of its training.

    Attributes:
        uri: As the spec names it.
        path: Its folder.
        sha256: Of its weights.
        id: The job that made it, or None.
        meta: From its manifest; empty where it has none.
    """

    uri: str
    path: Path
    sha256: str
    id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def train_rows(self) -> Path | None:
        """The file that says which rows it was trained on (see `tandem.data.train_rows`), if it has one."""
        path = self.path / TRAIN_ROWS
        return path if path.is_file() else None

    @property
    def train_sha256(self) -> str | None:
        """SHA-256 of its training rows, as the training recorded it."""
        return _data(self.meta).get("train_sha256")

    def train_cost(self, prices: PriceSpec) -> float | None:
        """What training it cost; None where its manifest doesn't say how long that took."""
        metrics = self.meta.get("metrics") or {}
        if "cpu_s" in metrics:  # of all attempts: what they held, for one second
            return Machine(float(metrics["cpu_s"]), float(metrics["gpu_s"])).price(1.0, prices)
        seconds, cpus = metrics.get("seconds"), metrics.get("cpus")
        if seconds is None or cpus is None:
            return None
        return Machine(float(cpus), float(metrics.get("gpus", 0.0))).price(float(seconds), prices)

    def lineage(self) -> dict[str, Any]:
        """What a report says of it."""
        known = {key: self.meta[key] for key in ("spec_sha256", "method", "retrieval") if key in self.meta}
        return {"uri": self.uri, "id": self.id, "sha256": self.sha256, **known}


def _data(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    data = meta.get("data")
    return data if isinstance(data, Mapping) else {}


def read_adapter(uri: str, *, storage: Path) -> Adapter:
    """Find an adapter and read its manifest, if it has one: adapters from elsewhere haven't.

    Raises:
        ModelError: Not an adapter, or an incomplete one.
        NotFoundError: Nothing is there.
    """
    path = adapter_path(uri, storage=storage)
    sha256 = sha256_file(path / WEIGHTS)
    if not (path / MANIFEST).is_file():
        return Adapter(uri, path, sha256)
    manifest = read_manifest(path)
    if manifest.type != "adapter":
        raise ModelError(f"an artifact of type {manifest.type!r}, not an adapter", where=uri)
    if manifest.meta.get("task", "generation") != "generation":
        raise ModelError(f"an adapter for {manifest.meta['task']}, which answers no questions", where=uri)
    return Adapter(uri, path, sha256, manifest.id, manifest.meta)


def check_base(adapter: Adapter, model: str, *, same: Callable[[str, str], bool]) -> None:
    """Refuse an adapter that was trained on another base model: it would load, and answer nonsense.

    Args:
        adapter: With its manifest's facts.
        model: The spec's base model.
        same: Whether two URIs name the same model.

    Raises:
        ModelError: Another base model.
    """
    trained_on = adapter.meta.get("base_model")
    if trained_on is not None and not same(str(trained_on), model):
        raise ModelError(
            f"trained on another base model, {trained_on}",
            where=adapter.uri,
            remedy=f"train one on {model}, or compare on {trained_on}",
        )


def prompt_notes(adapters: Sequence[Adapter], prompt: PromptSpec) -> list[str]:
    """Which adapters were trained on other prompts than the comparison's: it costs them quality, silently."""
    return [
        f"{adapter.uri} was trained with another prompt than it is asked with."
        for adapter in adapters
        if adapter.meta.get("prompt") not in (None, prompt.canonical())
    ]


def selection_notes(adapters: Sequence[Adapter], rows: Sequence[QaRow]) -> list[str]:
    """Which adapters' checkpoints were chosen by questions that are asked: that favours them.

    Args:
        adapters: Of all arms.
        rows: The questions that are asked.
    """
    keys = [question_key(row.question) for row in rows]
    notes = []
    for adapter in adapters:
        path = adapter.path / SELECTION_ROWS
        known = among(set(keys), read_keys(path)) if path.is_file() else frozenset()
        notes += selection_note(adapter.uri, sum(key in known for key in keys), f"of the {len(keys)} questions")
    return notes


def selection_note(uri: str, count: int, of: str) -> list[str]:
    """What is to be said of weights that were chosen by so many of what is asked; nothing of none."""
    return [f"{uri}: its checkpoint was chosen by {count} {of}, which favours its arms."] if count else []


def same_model(storage: Path) -> Callable[[str, str], bool]:
    """Whether two URIs are equal, or lead to the same place."""

    def same(a: str, b: str) -> bool:
        if a == b:
            return True
        try:
            return resolve(a, storage=storage).resolve() == resolve(b, storage=storage).resolve()
        except TandemError:
            return False  # one of them leads nowhere from here: then they aren't the same

    return same


def trained_on(adapter: Adapter, rows: Sequence[QaRow]) -> frozenset[str] | None:
    """Ids of the questions that an adapter was trained on: to ask it those would measure memory.

    Args:
        adapter: With its manifest's facts.
        rows: The questions.

    Returns:
        Empty when training and questions are known to be apart; None when nothing says what it was trained on.
    """
    if adapter.train_rows is not None:
        known = among({question_key(row.question) for row in rows}, read_keys(adapter.train_rows))
        return frozenset(row.id for row in rows if question_key(row.question) in known)
    # Artifacts of before that file: lists in the manifest.
    data = _data(adapter.meta)
    ids, questions = data.get("train_ids"), data.get("train_questions")
    if questions is not None:
        # What is asked decides: ids are often row numbers, and say nothing across two files.
        known = frozenset(questions)
        return frozenset(row.id for row in rows if question_key(row.question) in known)
    return None if ids is None else frozenset(ids) & {row.id for row in rows}


def learnt_answers(adapters: Sequence[Adapter], rows: Sequence[QaRow]) -> frozenset[str] | None:
    """Which answers were trained on, in the words of `question_key`: but for letter case and white space the same.

    Args:
        adapters: Of all arms.
        rows: The questions.

    Returns:
        The `question_key` of those of the questions' answers that stand in a training row of any adapter; None without
        adapters, and where one of them doesn't say which answers it was trained on.
    """
    answers = {question_key(answer) for row in rows for answer in row.answers}
    learnt: set[str] = set()
    for adapter in adapters:
        known = None if adapter.train_rows is None else read_answers(adapter.train_rows)
        if known is None:
            return None
        learnt |= among(answers, known)
    return frozenset(learnt) if adapters else None


def held_out(adapters: Sequence[Adapter], rows: Sequence[QaRow], *, where: str) -> tuple[list[QaRow], list[str]]:
    """The questions that no adapter was trained on: the same for every arm, or they couldn't be compared.

    Args:
        adapters: Of all arms.
        rows: The questions.
        where: Their file.

    Returns:
        The questions to ask, and notes for the report.

    Raises:
        DataError: None is left.
    """
    leaked: set[str] = set()
    notes = []
    for adapter in adapters:
        known = trained_on(adapter, rows)
        if known is None:
            notes.append(f"{adapter.uri}: nothing says which rows it was trained on, so a leak can't be ruled out.")
        elif known:
            leaked |= known
            notes.append(
                f"{adapter.uri} was trained on {len(known)} of the {len(rows)} questions: no arm was asked them."
            )
    if len(leaked) == len(rows):
        raise DataError(
            f"all {len(rows)} questions were trained on",
            where=where,
            remedy="evaluate on questions that were held out of training",
        )
    return [row for row in rows if row.id not in leaked], notes
