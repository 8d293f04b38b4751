"""The texts: divided as the classifier's training divides them, so that what is asked was held out of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tandem.artifacts.job import JobContext
from tandem.data.duplicates import near_duplicates, text_key
from tandem.data.labelled import LabelledRow, labelled_source, read_labelled
from tandem.data.labelled_splits import find_labels, labelled_sha256, split_labelled
from tandem.data.quarantine import check_quarantined, write_quarantine
from tandem.data.rows import QaRow
from tandem.errors import DataError
from tandem.specs.compare import CompareSpec

LABEL = "label"


@dataclass(frozen=True)
class Texts:
    """What is known and what is asked.

    Attributes:
        train: Rows whose labels are known: neighbours are looked for among them.
        train_sha256: Of them, as a classifier's manifest has it.
        asked: Rows to be told; the label is the answer, and a column. Their ids are distinct.
        labels: All that there are, sorted.
        notes: What a reader should know of how the rows were divided.
    """

    train: tuple[LabelledRow, ...]
    train_sha256: str
    asked: tuple[QaRow, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def read_texts(spec: CompareSpec, context: JobContext) -> Texts:
    """Read the rows, leave out what stands twice, divide.

    Without `spec.eval` the split depends on texts and `eval_fraction` alone: with the classifier's own fraction it is
    the classifier's own split.

    Args:
        spec: Says where the rows are.
        context: Its quarantine takes what can't be used.

    Raises:
        DataError: A file is missing, too many rows can't be used, there is one label, none to learn from or none to
            ask, or a label to ask for that no training row has.
        InputError, NotFoundError, UnreachableError: From resolving a URI.
    """
    assert spec.train is not None  # the spec has seen to it

    def read(uri: str) -> list[LabelledRow]:
        source = labelled_source(uri, storage=context.storage)
        return read_labelled(source, quarantine=context.quarantine_path, max_quarantined=spec.max_quarantined)

    rows, held_out = read(spec.train), None if spec.eval is None else read(spec.eval)
    split = split_labelled(rows, held_out, eval_fraction=spec.eval_fraction, where=spec.train)
    write_quarantine(context.quarantine_path, split.contradictions)
    total = len(rows) + len(held_out or ())
    check_quarantined(
        split.contradictions, total, spec.max_quarantined, what="rows", where=spec.train, path=context.quarantine_path
    )
    where = spec.eval or spec.train
    if not split.eval:
        raise DataError("no text is left to be asked", where=where, remedy="raise eval_fraction, or give `eval`")
    notes = []
    if split.duplicates:
        notes.append(f"{split.duplicates} rows have the words and the label of another one and were left out.")
    if split.leaked:
        notes.append(f"{split.leaked} training rows were left out, since {spec.eval} has their text, or nearly.")
    return Texts(
        train=split.train,
        train_sha256=labelled_sha256(split.train),
        asked=_questions(split.eval),
        labels=find_labels(split, where=spec.train, eval_where=where),
        notes=tuple(notes),
    )


def _questions(rows: tuple[LabelledRow, ...]) -> tuple[QaRow, ...]:
    """The rows as items like any other; an id that stands twice gets a number."""
    seen: Counter[str] = Counter()
    questions = []
    for row in rows:
        seen[row.id] += 1
        id = row.id if seen[row.id] == 1 else f"{row.id} ({seen[row.id]})"
        questions.append(QaRow(id, row.text, (row.label,), None, {LABEL: row.label}))
    return tuple(questions)


def near_repeats(rows: tuple[QaRow, ...] | list[QaRow]) -> int:
    """How many texts nearly repeat an earlier one."""
    groups = near_duplicates([text_key(row.question) for row in rows])
    return len(groups) - len(set(groups))


def length_slices(rows: list[QaRow]) -> dict[str, str]:
    """By id, in which third by length a text is; bounds are whole words, so that thirds are as even as those allow."""
    words = {row.id: len(row.question.split()) for row in rows}
    ordered = sorted(words.values())
    low, high = ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]

    def part(count: int) -> str:
        if count < low:
            return f"0 to {low - 1} words"
        return f"{low} to {high - 1} words" if count < high else f"{high} words or more"

    return {id: part(count) for id, count in words.items()}
