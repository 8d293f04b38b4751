"""One batch of rows at a time: given their passages, turned into tokens, reduced to what must be remembered of them.

The steps are functions of a batch alone, so that it doesn't matter which process runs them, nor when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tandem.data.quarantine import Fault
from tandem.data.rows import TrainRow, scan_training
from tandem.data.sources import DataFile
from tandem.data.splits import content_key, rank, row_sha256
from tandem.data.train_rows import Seen, seen
from tandem.models.prompts import PassageLike
from tandem.specs.base import PromptSpec
from tandem.specs.finetune import RetrievalAugmentedSpec
from tandem.specs.search import SearchSpec
from tandem.training.data.augment import augment
from tandem.training.data.examples import build_examples

if TYPE_CHECKING:
    from tandem.retrieval.retriever import Retriever

BATCH_ROWS = 64  # questions embedded and searched at once, and rows in a task
SEARCH_DEPTH = 4  # retrieved for each passage of a prompt: the gold one may rank low, and withholding it needs others


@dataclass(frozen=True)
class Located:
    """A row, or why there is none, and where it stands.

    Args:
        file: The file's name.
        line: From 1.
        given_id: Whether the row has its id from the file; else it comes from the content.
        row: The row, or a fault.
        passages: What its prompt is to hold.
        gold: Of a question with retrieval: whether the gold passage is in its prompt ("with"), was withheld
            ("without") or wasn't found ("not_found").
        excluded: Passages that would be in its prompt, had they not been barred.
    """

    file: str
    line: int
    given_id: bool
    row: TrainRow | Fault
    passages: tuple[PassageLike, ...] = ()
    gold: str | None = None
    excluded: int = 0


@dataclass(frozen=True)
class Encoded:
    """What is left of a row.

    Args:
        file: The file's name.
        line: From 1.
        given_id: See `Located`.
        id: The row's; "" where it couldn't be read.
        rank: By which it is split.
        sha256: Of the whole row.
        key: Its `content_key`.
        seen: What is kept of it for comparisons.
        gold: See `Located`; so too `excluded`.
        unread: Why it couldn't be read; None if it could.
        unusable: Why it can't be trained on although it could be read; None if it can.
        input_ids: (tokens,) int32 of each of its sequences.
        loss_masks: (tokens,) bool of each.
    """

    file: str
    line: int
    given_id: bool
    id: str = ""
    rank: str = ""
    sha256: str = ""
    key: str = ""
    seen: Seen = field(default_factory=Seen)
    gold: str | None = None
    excluded: int = 0
    unread: Fault | None = None
    unusable: Fault | None = None
    input_ids: tuple[np.ndarray[Any, Any], ...] = ()
    loss_masks: tuple[np.ndarray[Any, Any], ...] = ()


def read(file: DataFile) -> Iterator[list[Located]]:
    """The rows of a file in batches, in the file's order."""
    located = (Located(file.name, line, given, row) for line, given, row in scan_training(file))
    while batch := list(islice(located, BATCH_ROWS)):
        yield batch


def search_of(spec: RetrievalAugmentedSpec) -> SearchSpec:
    """The search from whose passages a prompt's are chosen."""
    return SearchSpec(top_k=SEARCH_DEPTH * spec.passages)


class Retrieve:
    """Gives questions the passages of their prompts (see `tandem.training.data.augment`).

    Args:
        open_retriever: Called where it is to run, once there is a question.
        spec: How many passages, and how often without gold.
        seed: Of both choices.
        bars: Which passages a row's prompt must not hold beside its gold one; None for no such.
    """

    def __init__(
        self,
        open_retriever: Callable[[], Retriever],
        spec: RetrievalAugmentedSpec,
        seed: int,
        bars: Callable[[TrainRow, PassageLike], bool] | None = None,
    ) -> None:
        self._open = open_retriever
        self._retriever: Retriever | None = None
        self._spec = spec
        self._seed = seed
        self._bars = bars

    def __call__(self, batch: Sequence[Located]) -> list[Located]:
        """The batch, its questions with passages."""
        questions = [item.row.question for item in batch if isinstance(item.row, TrainRow) and item.row.question]
        if not questions:
            return list(batch)
        if self._retriever is None:
            self._retriever = self._open()
        found = iter(self._retriever.search(questions, search_of(self._spec)))
        result = []
        for item in batch:
            row = item.row
            if isinstance(row, Fault) or not row.question:
                result.append(item)
                continue
            augmented = augment(
                [row],
                [next(found)],
                passages=self._spec.passages,
                without_gold=self._spec.without_gold,
                seed=self._seed,
                bars=self._bars,
            )
            gold = "with" if augmented.with_gold else "without" if augmented.without_gold else "not_found"
            context, excluded = augmented.contexts[0], augmented.excluded
            result.append(Located(item.file, item.line, item.given_id, row, context, gold, excluded))
        return result


class Encode:
    """Turns rows into tokens with their loss masks.

    Args:
        tokenizer: A fast one.
        prompt: How questions and passages become messages.
        max_length: Tokens; a longer chat is set aside.
    """

    def __init__(self, tokenizer: Any, prompt: PromptSpec, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._max_length = max_length

    def __call__(self, batch: Sequence[Located]) -> list[Encoded]:
        """The batch in its order.

        Raises:
            ModelError: The tokenizer can't be used.
        """
        return [self._encode(item) for item in batch]

    def _encode(self, item: Located) -> Encoded:
        row = item.row
        if isinstance(row, Fault):
            return Encoded(item.file, item.line, item.given_id, unread=row)
        examples, faults = build_examples(
            [row],
            [item.passages],
            self._tokenizer,
            prompt=self._prompt,
            max_length=self._max_length,
            where=item.file,
        )
        return Encoded(
            file=item.file,
            line=item.line,
            given_id=item.given_id,
            id=row.id,
            rank=rank(row),
            sha256=row_sha256(row),
            key=content_key(row),
            seen=seen(row),
            gold=item.gold,
            excluded=item.excluded,
            unusable=Fault(item.file, item.line, faults[0].reason, {"id": row.id}) if faults else None,
            input_ids=tuple(np.asarray(example.input_ids, dtype=np.int32) for example in examples),
            loss_masks=tuple(np.asarray(example.loss_mask, dtype=np.bool_) for example in examples),
        )
