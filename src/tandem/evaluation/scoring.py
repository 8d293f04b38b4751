"""One row per arm and question: what was answered, how right it is, what it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.evaluation import metrics
from tandem.evaluation.arms import Arm, Passage
from tandem.evaluation.items import Answer

if TYPE_CHECKING:
    from tandem.data.rows import QaRow


@dataclass(frozen=True)
class ScoredItem:
    """An arm's answer to a question, scored.

    Attributes:
        arm: The arm's name.
        id: The question's id.
        question: Verbatim.
        answers: References.
        source: The gold document, if it is known.
        extra: Other columns of the question's row.
        prediction: The answer; empty on failure, which scores 0 throughout.
        failure: Why there is none, or None.
        em: 0 or 1.
        f1: In [0, 1].
        bleu: Sentence BLEU, 0 to 100.
        rouge_l: In [0, 1].
        recall_at_k: 0 or 1; None without retrieval or without a known gold document.
        answer_in_context: 0 or 1, over the passages shown; None without context.
        passages: As retrieved, best first.
        shown: How many of them were in the prompt.
        prompt_tokens: Of the prompt.
        completion_tokens: Of the answer.
        finish_reason: `stop`, `length` or `failed`.
        latency_ms: Retrieval and generation; None on failure.
        seconds: Wall time that the question took of the machine: its share of its batch.
        bleu_counts: See `metrics.SentenceBleu.counts`.
    """

    arm: str
    id: str
    question: str
    answers: tuple[str, ...]
    source: str | None
    extra: Mapping[str, Any]
    prediction: str
    failure: str | None
    em: float
    f1: float
    bleu: float
    rouge_l: float
    recall_at_k: float | None
    answer_in_context: float | None
    passages: tuple[Passage, ...]
    shown: int
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    latency_ms: float | None
    seconds: float
    bleu_counts: tuple[int, ...]


def score(arm: Arm, row: QaRow, answer: Answer, passages: Sequence[Passage], retrieval_s: float) -> ScoredItem:
    """Score one answer.

    Args:
        arm: Who answered.
        row: The question with its references.
        answer: What came.
        passages: What was retrieved for this arm and question, best first; empty without context.
        retrieval_s: Seconds that retrieving took for one question; added where the arm has context.
    """
    retrieval_s = retrieval_s if arm.context != "none" else 0.0
    bleu = metrics.sentence_bleu(answer.prediction, row.answers)
    recall_at_k = in_context = None
    if arm.context == "retrieved":
        recall_at_k = metrics.recall(row.source, [passage.source for passage in passages])
    if arm.context != "none":
        in_context = metrics.answer_in_context(row.answers, [p.text for p in passages[: answer.shown]])
    failed = answer.failure is not None
    return ScoredItem(
        arm=arm.name,
        id=row.id,
        question=row.question,
        answers=tuple(row.answers),
        source=row.source,
        extra=row.extra,
        prediction=answer.prediction,
        failure=answer.failure,
        em=0.0 if failed else metrics.exact_match(answer.prediction, row.answers),
        f1=0.0 if failed else metrics.token_f1(answer.prediction, row.answers),
        bleu=bleu.score,
        rouge_l=metrics.rouge_l(answer.prediction, row.answers),
        recall_at_k=recall_at_k,
        answer_in_context=in_context,
        passages=tuple(passages),
        shown=answer.shown,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        finish_reason=answer.finish_reason,
        latency_ms=None if answer.latency_ms is None else answer.latency_ms + 1000.0 * retrieval_s,
        seconds=answer.seconds + retrieval_s,
        bleu_counts=bleu.counts,
    )


def write_parquet(items: Sequence[ScoredItem], path: Path) -> None:
    """items.parquet: one row per arm and question; `extra` is JSON, since its columns are the user's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, real, whole = pa.string(), pa.float64(), pa.int64()
    passage = pa.struct({"id": text, "source": text, "section": text, "score": real, "text": text})
    columns: dict[str, Any] = {
        "arm": text, "id": text, "question": text, "answers": pa.list_(text), "source": text, "extra": text,
        "prediction": text, "failure": text, "em": real, "f1": real, "bleu": real, "rouge_l": real,
        "recall_at_k": real, "answer_in_context": real, "passages": pa.list_(passage), "retrieved_ids": pa.list_(text),
        "shown": whole, "prompt_tokens": whole, "completion_tokens": whole, "finish_reason": text, "latency_ms": real,
        "seconds": real,
    }  # fmt: skip
    rows = []
    for item in items:
        row = asdict(item) | {"extra": json.dumps(dict(item.extra), ensure_ascii=False, default=str)}
        del row["bleu_counts"]
        rows.append(row | {"retrieved_ids": [passage.id for passage in item.passages]})
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), path)
