"""The shape of report.json, schema 1: `Report.model_json_schema()` is its JSON Schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Ci95 = tuple[float, float]


class Part(BaseModel):
    """A part of the report: frozen, nothing unknown, and never NaN, which JSON hasn't got."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Dataset(Part):
    """What was asked, and what the adapters were trained on."""

    train: dict[str, str | None] = Field(description="by adapter: SHA-256 of its training rows, null where unknown")
    eval: str = Field(description="the file of questions, as the spec names it")
    split_sha256: str = Field(description="SHA-256 over the questions that were asked")
    n: int = Field(description="questions asked")
    available: int = Field(description="questions in the file; more than n under a limit")
    quarantined: int = Field(description="rows of the file that couldn't be used")
    leaked: int = Field(description="questions left out because an adapter was trained on them")


class Latency(Part):
    """Milliseconds for one question in its batch, retrieval included; null without a single answer."""

    p50: float | None
    p95: float | None


class Tokens(Part):
    """Tokens over all questions."""

    prompt: int
    completion: int
    completion_mean: float


class Cost(Part):
    """In the currency of the spec's prices, at list price of the machine's time."""

    train: float | None = Field(description="training the adapter, once; 0 without one, null where unknown")
    per_1k: float = Field(description="a thousand questions: retrieval and generation, without training")
    per_correct: float | None = Field(description="an answer that matches exactly, without training; null without any")


class ArmReport(Part):
    """One strategy over all questions."""

    n: int
    failures: int = Field(description="questions without an answer; each counts as wrong")
    candidate: bool = Field(description="whether it can win: the oracle can't")
    metrics: dict[str, float | None] = Field(
        description="em, f1, rouge_l, recall_at_k, answer_in_context in [0, 1]; bleu in [0, 100]; null: not defined"
    )
    ci95: dict[str, Ci95] = Field(description="95 % bootstrap intervals over questions, by metric")
    latency_ms: Latency
    tokens: Tokens
    cost: Cost


class PairReport(Part):
    """Two arms on the same questions: mean of a minus mean of b."""

    a: str
    b: str
    metric: Literal["em", "f1"]
    test: Literal["mcnemar", "permutation"]
    diff: float
    ci95: Ci95
    p: float = Field(ge=0, le=1)
    p_adjusted: float = Field(ge=0, le=1, description="after Holm over the pairs of this metric")
    n: int


class VerdictReport(Part):
    """The answer."""

    winner: str | None
    tied: tuple[str, ...] = Field(description="best arms that these questions can't tell apart, best first")
    cheapest: str | None = Field(description="of those tied, the one that costs least")
    reason: str
    metric: Literal["em", "f1"]
    rule: str


class SliceReport(Part):
    """One arm on the questions with one value of a column."""

    n: int
    metrics: dict[str, float | None]
    ci95: dict[str, Ci95]


class Report(Part):
    """A comparison, complete: what was asked, of whom, how well, how sure, at what price, and from what."""

    schema_: Literal[1] = Field(1, alias="schema")
    id: str
    name: str
    created_at: str = Field(description="ISO 8601, UTC")
    dataset: Dataset
    arms: dict[str, ArmReport]
    pairs: tuple[PairReport, ...]
    verdict: VerdictReport
    slices: dict[str, dict[str, dict[str, SliceReport]]] = Field(description="by column, value, arm")
    notes: tuple[str, ...] = Field(description="what a reader should know before believing the figures")
    lineage: dict[str, Any] = Field(description="model, adapters, index, prompt, decoding, engine, machine, versions")

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)


def to_json(report: Report) -> str:
    """report.json, as it is written: indented, keys as in the contract."""
    return report.model_dump_json(by_alias=True, indent=2) + "\n"
