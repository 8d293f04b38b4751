"""Whether a version of a fine-tuned model may take over: the rules, over facts that were looked up elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tandem.specs.base import PromptSpec
from tandem.specs.rag import RagSpec

ALPHA = 0.05  # of the paired tests, after Holm's correction: the verdict's own


@dataclass(frozen=True)
class Version:
    """What one finetune job made.

    Attributes:
        name: The model's: that of the jobs that train it.
        id: The job's.
        kind: An adapter over a base model, or a whole model.
        created_at: ISO 8601, UTC.
        folder: Where it lies.
        meta: What its manifest says.
    """

    name: str
    id: str
    kind: Literal["adapter", "model"]
    created_at: str
    folder: Path
    meta: Mapping[str, Any]

    @property
    def uri(self) -> str:
        """This version and no other."""
        return f"artifact:{self.name}@{self.id}"

    @property
    def prompt(self) -> PromptSpec | None:
        """What it was trained with, if its manifest says so."""
        said = self.meta.get("prompt")
        return None if said is None else PromptSpec.model_validate(said)


@dataclass(frozen=True)
class Against:
    """What paired tests say of a version and what it would take the place of.

    Attributes:
        what: That is: a version's id, or ``the base model``.
        report: Of the comparison that asked it.
        diff: Mean of the version less mean of the other, in units of the metric.
        ci95: Of the difference.
        p: After Holm's correction.
    """

    what: str
    report: str
    diff: float
    ci95: tuple[float, float]
    p: float

    @property
    def worse(self) -> bool:
        """Whether the version is shown to be worse."""
        return self.p < ALPHA and self.diff < 0

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.diff:+.3f} ({low:+.3f} to {high:+.3f}, p {self.p:.2g}) against {self.what}"


@dataclass(frozen=True)
class Standing:
    """What the newest comparison says that asked a version as an endpoint asks it: with passages.

    Attributes:
        report: The comparison's id.
        arm: Its arm.
        metric: The verdict's.
        value: Of the metric.
        n: Questions.
        adapters: Trained with different seeds, of which the arm's figures are the mean.
        collection: In which it searched.
        snapshot: Of the index then; None where nothing says so.
        prompt: With which it was asked.
        top_k: Passages for each question.
        against: What is live now; None where no comparison says which of both is better.
    """

    report: str
    arm: str
    metric: str
    value: float | None
    n: int
    adapters: int
    collection: str | None
    snapshot: str | None
    prompt: Mapping[str, Any]
    top_k: int
    against: Against | None


@dataclass(frozen=True)
class Judgement:
    """Why a version may not take over (unless it is forced to), and what else is to be known."""

    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def judge(
    before: RagSpec,
    after: RagSpec,
    standing: Standing | None,
    *,
    live: str,
    beside: Sequence[Version],
    snapshot: str | None,
    canary: bool,
) -> Judgement:
    """The rules: what takes over was compared as it would answer, and isn't shown to be worse than what is live.

    A canary needn't have been compared: it is asked little, and watched.

    Args:
        before: The application now.
        after: The application then.
        standing: What a comparison says of it.
        live: What answers now, in words.
        beside: Versions that the application has besides, with the same prompt from then on.
        snapshot: Of the collection now, if known.
        canary: Whether it only tries it.
    """
    refusals: list[str] = []
    notes: list[str] = []
    if canary and after.prompt != before.prompt:
        refusals.append("it was trained with another prompt than the application's, of which there is one for all")
    others = [each for each in beside if each.prompt not in (None, after.prompt)]
    if others and not canary:
        names = ", ".join(each.name for each in others)
        refusals.append(f"its prompt is another than that of {names}, and an application has one")
    if standing is None:
        said = "no comparison has asked it with passages: compare it first (arms `raft` or `tuned_rag`)"
        (notes if canary else refusals).append(said)
        return Judgement(tuple(refusals), tuple(notes))
    if standing.collection != after.retriever.collection:
        refusals.append(
            f"{standing.report} searched {standing.collection}, the application searches {after.retriever.collection}"
        )
    if standing.prompt != after.prompt.canonical():
        refusals.append(f"{standing.report} asked with another prompt than the application would")
    if standing.against is None:
        said = f"no comparison has asked both it and what answers now ({live}) the same questions"
        (notes if canary else refusals).append(said)
    elif standing.against.worse:
        refusals.append(f"it is worse: {standing.metric} {standing.against}")
    if standing.adapters > 1:
        notes.append(f"{standing.report} says how {standing.adapters} seeds do on average, of which this is one")
    if standing.top_k != after.retriever.top_k:
        notes.append(
            f"{standing.report} showed {standing.top_k} passages, the application shows {after.retriever.top_k}"
        )
    if None not in (snapshot, standing.snapshot) and snapshot != standing.snapshot:
        notes.append(f"{after.retriever.collection} has been indexed anew since {standing.report}")
    return Judgement(tuple(refusals), tuple(notes))
