"""The shape of report.json, schema 1: `Report.model_json_schema()` is its JSON Schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Ci95 = tuple[float, float]


class Part(BaseModel):
    """A part of the report: frozen, nothing unknown, and never NaN, which JSON hasn't got."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NearDuplicates(Part):
    """Questions that nearly repeat something an arm has seen, or each other: see `tandem.data.likeness`."""

    training: int | None = Field(
        description="of the questions asked or left out for it: nearly repeat one that an adapter was trained on; "
        "null where none is found and an adapter has no record of its training rows, or where a classifier learnt from "
        "other rows than `train`"
    )
    index: int = Field(description="of those asked: stand nearly word for word in a retrieved passage")
    evaluation: int = Field(description="of those asked: nearly repeat an earlier one")
    examples: tuple[tuple[str, str], ...] = Field(description="a few of each: id of the question, and what it repeats")
    excluded: int = Field(description="questions of the file left out because they nearly repeat a training question")


class Dataset(Part):
    """What was asked, and what the adapters were trained on."""

    train: dict[str, str | None] = Field(description="by adapter: SHA-256 of its training rows, null where unknown")
    eval: str = Field(description="the file of questions, as the spec names it")
    split_sha256: str = Field(description="SHA-256 over the questions that were asked")
    n: int = Field(description="questions asked")
    available: int = Field(description="questions in the file; more than n under a limit")
    quarantined: int = Field(description="rows of the file that couldn't be used")
    leaked: int = Field(description="questions left out because an adapter was trained on them")
    near_duplicates: NearDuplicates | None = Field(description="null where it wasn't looked for")


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
    per_1k_with_training: float | None = Field(
        description="the same with training spread over as many questions as the prices say; null where unknown"
    )
    per_correct: float | None = Field(description="a right answer, without training; null without any")
    cpu_s_per_1k: float = Field(description="core-seconds of a thousand questions")
    gpu_s_per_1k: float = Field(description="GPU-seconds of a thousand questions")


class BreakEven(Part):
    """When a trained arm has paid for its training, against an untrained one."""

    arm: str
    against: str
    questions: int | None = Field(description="after so many it is cheaper per question; null: never, or unknown")
    questions_per_correct: int | None = Field(description="after so many it is cheaper per right answer; null: never")


class SeedSpread(Part):
    """How an arm's figures differ between adapters that were trained with different seeds."""

    n: int = Field(description="adapters")
    sd: dict[str, float] = Field(description="standard deviation over them, by metric")
    range: dict[str, Ci95] = Field(description="the least and the greatest figure, by metric")


class ArmReport(Part):
    """One strategy over all questions."""

    n: int
    failures: int = Field(description="questions without an answer; each counts as wrong")
    candidate: bool = Field(description="whether it can win: the oracle can't")
    metrics: dict[str, float | None] = Field(
        description="shares in [0, 1]; bleu, chrf in [0, 100]; words; null: not defined. Over seeds: the mean"
    )
    ci95: dict[str, Ci95] = Field(description="95 % bootstrap intervals over questions, by metric")
    seeds: SeedSpread | None = Field(description="null with one adapter, or none")
    latency_ms: Latency
    tokens: Tokens
    cost: Cost


class PairReport(Part):
    """Two arms on the same questions: mean of a minus mean of b."""

    a: str
    b: str
    metric: str
    test: Literal["mcnemar", "permutation"]
    diff: float
    ci95: Ci95
    ci90: Ci95 = Field(description="within the margin on both sides: shown to be equal (two one-sided tests)")
    p: float = Field(ge=0, le=1)
    p_adjusted: float = Field(ge=0, le=1, description="after Holm over the pairs of this metric")
    n: int
    wins: int | None = Field(description="questions on which a is better; null where the metric is of all together")
    losses: int | None = Field(description="questions on which b is better")
    effect: float | None = Field(description="Cohen's d_z: mean difference in standard deviations of a question's")
    spread: float = Field(description="that standard deviation")
    detectable: float = Field(description="smallest true difference that so many questions show in 4 of 5 comparisons")


class VerdictReport(Part):
    """The answer."""

    kind: Literal["winner", "tie", "not_enough_data", "no_contest"]
    winner: str | None
    tied: tuple[str, ...] = Field(description="best arms that these questions can't tell apart, best first")
    cheapest: str | None = Field(description="of those tied, the one that costs least")
    choose: str | None = Field(description="the arm to choose: the winner, or the cheapest of a tie; else null")
    more_items: int | None = Field(description="so many more questions would settle it, as far as one can tell")
    reason: str
    metric: str
    margin: float = Field(description="differences below it count as none; in units of the metric")
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
    task: Literal["generation", "classification"]
    created_at: str = Field(description="ISO 8601, UTC")
    dataset: Dataset
    arms: dict[str, ArmReport]
    pairs: tuple[PairReport, ...]
    break_even: tuple[BreakEven, ...]
    verdict: VerdictReport
    top_k: int = Field(description="passages or neighbours retrieved")
    slices: dict[str, dict[str, dict[str, SliceReport]]] = Field(description="by column, value, arm")
    notes: tuple[str, ...] = Field(description="what a reader should know before believing the figures")
    lineage: dict[str, Any] = Field(description="model, adapters, index, prompt, decoding, engine, machine, versions")

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)


def to_json(report: Report) -> str:
    """report.json, as it is written: indented, keys as in the contract."""
    return report.model_dump_json(by_alias=True, indent=2) + "\n"
