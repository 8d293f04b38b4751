"""One row per arm and question: what was answered, how right it is, what it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.evaluation.asking.arms import Arm, Passage
from tandem.evaluation.asking.items import Answer
from tandem.evaluation.figures import metrics

if TYPE_CHECKING:
    from tandem.data.rows import QaRow

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class ScoredItem:
    """An arm's answer to a question, scored.

    Attributes:
        arm: The arm's name.
        id: The question's id.
        question: Verbatim; for classification the text.
        answers: References; for classification the label.
        source: The gold document, if it is known.
        extra: Other columns of the question's row.
        prediction: The answer, or the label; empty on failure, which scores 0 throughout.
        failure: Why there is none, or None.
        scores: By measure, see `tandem.evaluation.figures.measures`; None where one isn't defined for this item.
        sentence_bleu: 0 to 100, for looking at a single answer; None for a label.
        counts: For measures over counts: what this item adds to their sums.
        passages: As retrieved, best first.
        shown: How many of them were in the prompt.
        prompt_tokens: Of the prompt.
        completion_tokens: Of the answer.
        finish_reason: `stop`, `length` or `failed`.
        latency_ms: Retrieval and generation; None on failure.
        seconds: Wall time that the question took of the machine: its share of its batch.
        seed: Which of the arm's adapters answered, from 0.
    """

    arm: str
    id: str
    question: str
    answers: tuple[str, ...]
    source: str | None
    extra: Mapping[str, Any]
    prediction: str
    failure: str | None
    scores: Mapping[str, float | None]
    sentence_bleu: float | None
    counts: Mapping[str, tuple[float, ...]]
    passages: tuple[Passage, ...]
    shown: int
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    latency_ms: float | None
    seconds: float
    seed: int = 0


def score(
    arm: Arm, row: QaRow, answer: Answer, passages: Sequence[Passage], retrieval_s: float, *, seed: int = 0
) -> ScoredItem:
    """Score one answer.

    Args:
        arm: Who answered.
        row: The question with its references.
        answer: What came.
        passages: What was retrieved for this arm and question, best first; empty without context.
        retrieval_s: Seconds that retrieving took for one question; added where the arm has context.
        seed: Which of the arm's adapters answered.
    """
    retrieval_s = retrieval_s if arm.context != "none" else 0.0
    failed = answer.failure is not None
    said = answer.prediction
    bleu = metrics.sentence_bleu(said, row.answers)
    shown = [passage.text for passage in passages[: answer.shown]]
    sources = [passage.source for passage in passages]
    scores: dict[str, float | None] = {
        "em": 0.0 if failed else metrics.exact_match(said, row.answers),
        "f1": 0.0 if failed else metrics.token_f1(said, row.answers),
        "rouge_l": metrics.rouge_l(said, row.answers),
        "recall_at_k": metrics.recall(row.source, sources) if arm.context == "retrieved" else None,
        "mrr": metrics.reciprocal_rank(row.source, sources) if arm.context == "retrieved" else None,
        "answer_in_context": metrics.answer_in_context(row.answers, shown) if arm.context != "none" else None,
        "grounded": metrics.grounded(said, row.question, shown) if arm.context != "none" else None,
        "abstained": float(not failed and metrics.abstains(said)),
        "words": None if failed else float(len(said.split())),
    }
    return ScoredItem(
        arm=arm.name,
        id=row.id,
        question=row.question,
        answers=tuple(row.answers),
        source=row.source,
        extra=row.extra,
        prediction=said,
        failure=answer.failure,
        scores=scores,
        sentence_bleu=bleu.score,
        counts={"bleu": bleu.counts, "chrf": metrics.chrf_counts(said, row.answers)},
        passages=tuple(passages),
        shown=answer.shown,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        finish_reason=answer.finish_reason,
        latency_ms=None if answer.latency_ms is None else answer.latency_ms + 1000.0 * retrieval_s,
        seconds=answer.seconds + retrieval_s,
        seed=seed,
    )


def over_seeds(runs: Sequence[Sequence[ScoredItem]]) -> list[ScoredItem]:
    """One item per question from those of several adapters: their mean scores, the sums of their counts.

    What can't be averaged is the first adapter's; a question that failed with any of them has failed.

    Args:
        runs: For each adapter its items, questions in the same order.
    """
    if len(runs) == 1:
        return list(runs[0])
    return [_merged(items) for items in zip(*runs, strict=True)]


def _merged(items: Sequence[ScoredItem]) -> ScoredItem:
    first, many = items[0], len(items)
    scores: dict[str, float | None] = {}
    for name in first.scores:
        values = [value for item in items if (value := item.scores[name]) is not None]
        scores[name] = sum(values) / len(values) if values else None
    latencies = [item.latency_ms for item in items if item.latency_ms is not None]
    return replace(
        first,
        failure=next((item.failure for item in items if item.failure is not None), None),
        scores=scores,
        counts={
            name: tuple(map(sum, zip(*(item.counts[name] for item in items), strict=True))) for name in first.counts
        },
        prompt_tokens=round(sum(item.prompt_tokens for item in items) / many),
        completion_tokens=round(sum(item.completion_tokens for item in items) / many),
        latency_ms=sum(latencies) / len(latencies) if latencies else None,
        seconds=sum(item.seconds for item in items) / many,
    )


def write_parquet(items: Sequence[ScoredItem], slices: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """items.parquet: one row per arm, adapter and question.

    Args:
        items: All of them.
        slices: By column and question id, the value by which a question is counted.
        path: The file. `extra` and `slices` are JSON in it, since their columns are the user's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, real, whole = pa.string(), pa.float64(), pa.int64()
    passage = pa.struct({"id": text, "source": text, "section": text, "score": real, "text": text})
    measured = dict.fromkeys((name for item in items[:1] for name in item.scores), real)
    columns: dict[str, Any] = {
        "arm": text, "seed": whole, "id": text, "question": text, "answers": pa.list_(text), "source": text,
        "extra": text, "slices": text, "prediction": text, "failure": text, **measured, "sentence_bleu": real,
        "passages": pa.list_(passage), "retrieved_ids": pa.list_(text), "shown": whole, "prompt_tokens": whole,
        "completion_tokens": whole, "finish_reason": text, "latency_ms": real, "seconds": real,
    }  # fmt: skip
    schema = pa.schema(columns)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        # Passages are most of it: a part at a time is in memory twice.
        for begin in range(0, len(items), ROWS_AT_ONCE):
            rows = [_row(item, slices) for item in items[begin : begin + ROWS_AT_ONCE]]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _row(item: ScoredItem, slices: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    plain = ("arm", "seed", "id", "question", "source", "prediction", "failure", "sentence_bleu", "shown")
    used = ("prompt_tokens", "completion_tokens", "finish_reason", "latency_ms", "seconds")
    return {
        **{name: getattr(item, name) for name in plain + used},
        **item.scores,
        "answers": list(item.answers),
        "extra": json.dumps(dict(item.extra), ensure_ascii=False, default=str),
        "slices": json.dumps({column: values[item.id] for column, values in slices.items()}, ensure_ascii=False),
        "passages": [vars(passage) for passage in item.passages],
        "retrieved_ids": [passage.id for passage in item.passages],
    }
