"""Labelled texts like the one to be told: found once for all arms, kept, and asked for their vote."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tandem.data.labelled import LabelledRow
from tandem.data.rows import QaRow
from tandem.evaluation.asking.arms import Passage
from tandem.evaluation.asking.generate import Clock
from tandem.evaluation.asking.items import read_saved, save
from tandem.evaluation.classification.prompt import beginning
from tandem.specs.compare import CompareSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Likenesses held at once: 64 MB, however many rows there are.
BLOCK = 16_000_000


class Encoder(Protocol):
    """What turns texts into vectors of length 1."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Computed now: float32, (texts, dimension)."""
        ...

    def remembered(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The same, from an earlier time where that is possible."""
        ...


@dataclass(frozen=True)
class Neighbours:
    """The nearest training rows of each text.

    Attributes:
        found: By id of the text, (place among the training rows, cosine), nearest first.
        seconds: Wall time of embedding one text and searching, on average.
    """

    found: Mapping[str, Sequence[tuple[int, float]]]
    seconds: float

    def passages(self, id: str, train: Sequence[LabelledRow], words: int) -> tuple[Passage, ...]:
        """A text's neighbours as a report shows them: the label as source, so much of the text as a prompt shows."""
        return tuple(
            Passage(train[at].id, train[at].label, "", likeness, beginning(train[at].text, words))
            for at, likeness in self.found.get(id, ())
        )


def find_neighbours(
    spec: CompareSpec,
    train: Sequence[LabelledRow],
    rows: Sequence[QaRow],
    path: Path,
    open_encoder: Callable[[], Encoder],
    progress: Callable[[int, int], None],
    clock: Clock,
) -> Neighbours:
    """The k nearest training rows of each text by cosine: exact, equal ones in the rows' order.

    Read from `path` if they were found before, else found and saved there.

    Args:
        spec: Embedder and k.
        train: Rows whose labels are known.
        rows: Texts to be told.
        path: Where it is kept between attempts.
        open_encoder: Gives the embedder; called only when needed.
        progress: Called with texts done, texts in all.
        clock: In seconds.
    """
    embedder = spec.neighbours.embedder
    settings = [f"{spec.neighbours.k}", embedder.model, embedder.dtype, f"{embedder.passage_prompt!r}"]
    texts = [*settings, *(row.text for row in train), *(f"{row.id}\0{row.question}" for row in rows)]
    key = hashlib.sha256("\0".join(hashlib.sha256(text.encode()).hexdigest() for text in texts).encode()).hexdigest()
    saved = read_saved(path, key)
    if saved is None:
        progress(0, len(rows))
        encoder = open_encoder()
        known = encoder.remembered([row.text for row in train])
        # Not remembered: what an arm takes for a text is measured, and in use a text is new.
        began = clock()
        found = nearest(encoder.encode([row.question for row in rows]), known, spec.neighbours.k)
        seconds = (clock() - began) / len(rows)
        saved = {"found": {row.id: each for row, each in zip(rows, found, strict=True)}, "seconds": seconds}
        save(path, key, saved)
        progress(len(rows), len(rows))
    return Neighbours(
        {id: [(int(at), float(likeness)) for at, likeness in each] for id, each in saved["found"].items()},
        float(saved["seconds"]),
    )


def nearest(
    vectors: NDArray[np.float32], known: NDArray[np.float32], k: int
) -> list[list[tuple[int, float]]]:  # (texts, k)
    """For each vector the k known ones with the greatest inner product, greatest first, equal ones by place.

    Args:
        vectors: float32, (texts, dimension).
        known: float32, (rows, dimension).
        k: At most so many.
    """
    import numpy as np

    k = min(k, len(known))
    found: list[list[tuple[int, float]]] = []
    for begin in range(0, len(vectors), max(1, BLOCK // max(1, len(known)))):
        likeness = vectors[begin : begin + max(1, BLOCK // max(1, len(known)))] @ known.T  # (block, rows)
        # The whole order: what is equal to the k-th mustn't depend on how a partition falls.
        order = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
        for row, places in zip(likeness, order, strict=True):
            found.append([(int(at), float(row[at])) for at in places])
    return found


def votes(
    neighbours: Sequence[tuple[int, float]], train: Sequence[LabelledRow], labels: Sequence[str], temperature: float
) -> NDArray[np.float64]:
    """How probable neighbours make each label: the softmax of their likenesses, added up by label.

    As p_kNN in kNN-LM (Khandelwal et al. 2020, arXiv 1911.00172), with cosines in place of negative distances.

    Args:
        neighbours: (place among the training rows, cosine).
        train: Those rows.
        labels: In the order of the result.
        temperature: Of the softmax.

    Returns:
        float64, (labels,); adds up to 1.
    """
    import numpy as np

    likeness = np.array([each for _, each in neighbours], dtype=np.float64)
    weights = np.exp((likeness - likeness.max()) / temperature)
    weights /= weights.sum()
    shares = dict.fromkeys(labels, 0.0)
    for (at, _), weight in zip(neighbours, weights, strict=True):
        shares[train[at].label] += float(weight)
    return np.array([shares[label] for label in labels])


def agreement(neighbours: Sequence[tuple[int, float]], train: Sequence[LabelledRow], label: str) -> str:
    """How a text's neighbours stand to its label, as a slice: it explains what arms with neighbours can do."""
    right = sum(train[at].label == label for at, _ in neighbours)
    return "all right" if right == len(neighbours) else "none right" if right == 0 else "some right"


def lineage(spec: CompareSpec, train: Sequence[LabelledRow]) -> dict[str, Any]:
    """What a report says of where neighbours come from and what they count."""
    return {**spec.neighbours.canonical(), "rows": len(train)}
