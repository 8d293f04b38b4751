"""Whether a version of a fine-tuned model may take over: the rules, over facts that were looked up elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tandem.errors import ModelError
from tandem.specs.base import PromptSpec
from tandem.specs.rag import RagSpec


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
        """What it was trained with, if its manifest says so.

        Raises:
            ModelError: In words that this version doesn't know.
        """
        said = self.meta.get("prompt")
        try:
            return None if said is None else PromptSpec.model_validate(said)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]["msg"]
            raise ModelError(f"its prompt can't be read: {fault}", where=self.uri, remedy="train it anew") from None


@dataclass(frozen=True)
class Against:
    """What a paired test says of a version and what it would take the place of.

    Attributes:
        what: That is: a version's id, a URI, or ``the base model``.
        report: Of the comparison that asked the version.
        diff: Mean of the version less mean of the other, in units of the metric.
        ci95: Of the difference.
        n: Questions.
    """

    what: str
    report: str
    diff: float
    ci95: tuple[float, float]
    n: int

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.diff:+.3f} ({low:+.3f} to {high:+.3f}) against {self.what}"


@dataclass(frozen=True)
class Standing:
    """What a comparison says that asked a version as an endpoint asks it: with passages.

    Attributes:
        report: The comparison's id.
        arm: Its arm.
        metric: The verdict's.
        value: Of the metric.
        n: Questions.
        adapters: Trained with different seeds, of which the arm's figures are the mean.
        snapshot: Of the index then; None where nothing says so.
        top_k: Passages for each question.
        margin: Differences below it count as none, says the comparison's spec.
        faults: In what it asked otherwise than the application would.
        against: What is live now; None where no comparison says which of both is better.
    """

    report: str
    arm: str
    metric: str
    value: float | None
    n: int
    adapters: int
    snapshot: str | None
    top_k: int
    margin: float
    faults: tuple[str, ...]
    against: Against | None


@dataclass(frozen=True)
class Judgement:
    """Why a version may not take over (unless it is forced to), and what else is to be known."""

    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def weigh(
    before: RagSpec,
    after: RagSpec,
    standing: Standing | None,
    *,
    live: str,
    beside: Sequence[Version],
    snapshot: str | None,
    canary: bool,
) -> Judgement:
    """The rules: what takes over was compared as it would answer, and is as good as what is live, to within the margin.

    As measured, since intervals of so few questions as people have would refuse nearly everything; and not where they
    show that it is worse. What is unknown is no reason against a canary: it is asked little, and watched.

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
    unknown: list[str] = []
    notes: list[str] = []
    if canary and after.prompt != before.prompt:
        refusals.append("it was trained with another prompt than the application's, of which there is one for all")
    others = [each.name for each in beside if each.prompt not in (None, after.prompt)]
    if others and not canary:
        refusals.append(f"its prompt is another than that of {', '.join(others)}, and an application has one")
    if standing is None:
        unknown.append("no comparison has asked it with passages: compare it first (arms `raft` or `tuned_rag`)")
    elif standing.faults:
        unknown += standing.faults
    elif standing.against is None:
        unknown.append(f"no comparison has asked both it and what answers now ({live}) the same questions")
    else:
        worse = standing.against.diff < -standing.margin or standing.against.ci95[1] < 0
        said = f"{standing.metric} {standing.against}, of {standing.against.n} questions"
        if worse:
            refusals.append(f"it is worse: {said}")
        elif standing.against.ci95[0] < -standing.margin:
            notes.append(f"a loss can't be ruled out: {said}")
    if standing is not None and not standing.faults:
        notes += _notes(standing, after, snapshot)
    return Judgement((*refusals, *(() if canary else unknown)), (*(unknown if canary else ()), *notes))


def _notes(standing: Standing, after: RagSpec, snapshot: str | None) -> list[str]:
    notes = []
    if standing.adapters > 1:
        notes.append(f"{standing.report} says how {standing.adapters} seeds do on average, of which this is one")
    if standing.top_k != after.retriever.top_k:
        notes.append(
            f"{standing.report} showed {standing.top_k} passages, the application shows {after.retriever.top_k}"
        )
    if None not in (snapshot, standing.snapshot) and snapshot != standing.snapshot:
        notes.append(f"{after.retriever.collection} has been indexed anew since {standing.report}")
    return notes
