"""`kind: compare`: which strategy wins on these questions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tandem.specs.base import Fraction, Name, PromptSpec, Spec, Uri
from tandem.specs.index import EmbedderSpec
from tandem.specs.queue import QueueSpec
from tandem.specs.runtime import RuntimeSpec

ArmName = Literal["base", "rag", "tuned", "tuned_rag", "raft", "oracle"]
CLASSIFIES: tuple[ArmName, ...] = ("base", "rag", "tuned", "tuned_rag")
Task = Literal["generation", "classification"]
# What one of them has no use for is refused, and not passed over.
ALONE: dict[Task, tuple[str, ...]] = {
    "generation": (
        "adapter", "raft_adapter", "collection", "tenant", "top_k", "prompt", "max_tokens", "near_duplicates", "slices",
    ),
    "classification": ("classifier", "train", "eval_fraction", "neighbours", "classify_prompt"),
}  # fmt: skip
# What may decide, the usual one first.
DECIDES: dict[Task, tuple[str, ...]] = {
    "generation": ("em", "f1", "rouge_l", "bleu", "chrf"),
    "classification": ("accuracy", "macro_f1"),
}
RETRIEVING: frozenset[str] = frozenset({"rag", "tuned_rag", "raft"})
TUNED: dict[str, str] = {"tuned": "adapter", "tuned_rag": "adapter", "raft": "raft_adapter"}


class PriceSpec(Spec):
    """What time costs, in any one currency."""

    cpu_hour: float = Field(0.04, ge=0, description="one core for one hour")
    gpu_hour: float = Field(2.5, ge=0)
    questions: int = Field(10_000, ge=1, description="over so many questions the cost of training is spread")


class EngineSpec(Spec):
    """What generates: vLLM where it can be imported, else transformers in batches."""

    name: Literal["auto", "vllm", "transformers"] = "auto"
    max_model_len: int = Field(2048, ge=64, description="tokens of prompt and answer together")
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = Field(
        "auto", description="auto: bf16 where the device computes in it"
    )
    kv_cache_gib: float = Field(1.0, gt=0, description="vLLM on a CPU: memory for its key-value cache")
    threads: int | None = Field(
        None, ge=1, description="on a CPU: threads that compute; left out: one for each of the machine's cores"
    )


class ClassifyPromptSpec(Spec):
    """Classification: how a language model is asked for a label. Examples are turns of the same form, with answers."""

    system: str = Field(
        "You label texts. Answer with one of these labels and nothing else: {labels}.",
        description="{labels} is replaced; empty: no system turn",
    )
    text: str = Field(
        "Text: {text}\n\nLabel:",
        description="a user's turn; {text} and {labels} are replaced. No text can hold what a chat template divides "
        "turns with",
    )
    text_words: int | None = Field(
        None,
        ge=8,
        description="words of the text that are shown; left out: all of them, and a text that is too long for "
        "engine.max_model_len counts as failed",
    )
    example_words: int = Field(80, ge=8, description="words of an example that are shown")


class NeighbourSpec(Spec):
    """Classification: labelled texts like the one to be told, from the rows that the classifier learnt from."""

    embedder: EmbedderSpec = EmbedderSpec()
    k: int = Field(4, ge=1, le=100, description="shown as examples, and asked for their label")
    temperature: float = Field(
        0.1,
        gt=0,
        description="of the softmax over cosines by which they vote; the smaller, the more the nearest counts",
    )
    weight: Fraction = Field(
        0.25,
        description="of the neighbours' vote beside the trained head's in tuned_rag (kNN-LM's own, arXiv 1911.00172). "
        "It can't be chosen by the training rows: the head knows their labels, so that it would seem to need no vote",
    )

    @model_validator(mode="after")
    def _embeds_by_itself(self) -> NeighbourSpec:
        for field in ("workers", "gpus", "query_prompt"):
            if getattr(self.embedder, field) != EmbedderSpec.model_fields[field].default:
                raise ValueError(f"embedder.{field}: of an index job; texts are embedded as passages, in one process")
        return self


class CompareSpec(Spec):
    """The same items, the same prompt but for context, the same greedy decoding in every arm."""

    kind: Literal["compare"]
    name: Name
    task: Task = Field("generation", description="generation: questions and answers; classification: texts and labels")
    model: Uri = Field(description="the language model that every arm starts from")
    adapter: Uri | tuple[Uri, ...] | None = Field(
        None, description="trained without context: arms tuned and tuned_rag; several: of several seeds"
    )
    raft_adapter: Uri | tuple[Uri, ...] | None = Field(
        None, description="trained with retrieved context: arm raft; several: of several seeds"
    )
    classifier: Uri | tuple[Uri, ...] | None = Field(
        None,
        description="classification: what a finetune job made of the training rows, for tuned and tuned_rag; several: "
        "of several seeds",
    )
    arms: tuple[ArmName, ...] = Field(("base", "rag"), min_length=1)
    eval: str | None = Field(
        None,
        description="questions and answers, or texts and labels: JSONL, CSV or Parquet; for classification left out: "
        "the part of `train` that the classifier held out",
    )
    train: Uri | None = Field(None, description="classification: the rows that the classifier learnt from")
    eval_fraction: Fraction = Field(0.25, description="classification without `eval`: as the classifier's")
    collection: Name | None = Field(None, description="generation: where passages are retrieved")
    tenant: str | None = Field(
        None,
        min_length=1,
        description="generation: whose passages: this tenant's and nobody's; '*': all. Needed where there are tenants",
    )
    top_k: int = Field(3, ge=1)
    neighbours: NeighbourSpec = NeighbourSpec()
    prompt: PromptSpec = PromptSpec()
    classify_prompt: ClassifyPromptSpec = ClassifyPromptSpec()
    max_tokens: int = Field(48, ge=1, description="tokens of an answer, at most")
    engine: EngineSpec = EngineSpec()
    max_quarantined: Fraction = Field(0.01, description="fail when more than this share of the questions is unusable")
    limit: int | None = Field(None, ge=1, description="only so many questions, chosen by hash")
    budget_s: float | None = Field(
        None, gt=0, description="as many questions as can be answered in so many seconds, drawn by strata"
    )
    near_duplicates: Literal["report", "exclude"] = Field(
        "report", description="questions that nearly repeat one that was trained on: said, or left out too"
    )
    slices: tuple[str, ...] = Field((), description="columns of the questions by which the figures are also split")
    primary: str | None = Field(
        None,
        description="the metric of the verdict: em, f1, rouge_l, bleu or chrf; for classification accuracy or "
        "macro_f1. The first is the default; em is of no use for long answers",
    )
    margin: Fraction = Field(
        0.05, description="of the metric's range: arms shown to differ by less, and not significantly, are tied"
    )
    bootstrap: int = Field(2000, ge=100, description="resamples for the intervals")
    seed: int = Field(0, ge=0, description="of the resamples and permutations")
    prices: PriceSpec = PriceSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    queue: QueueSpec = QueueSpec()

    @property
    def metric(self) -> str:
        """The metric of the verdict."""
        return self.primary or DECIDES[self.task][0]

    def adapters(self, field: str) -> tuple[str, ...]:
        """The URIs of a field of adapters, one for each seed; empty where it is left out."""
        value = getattr(self, field)
        return () if value is None else (value,) if isinstance(value, str) else tuple(value)

    @model_validator(mode="after")
    def _arms_have_what_they_need(self) -> CompareSpec:
        if len(set(self.arms)) != len(self.arms):
            raise ValueError("arms: one is named twice")
        if self.metric not in DECIDES[self.task]:
            raise ValueError(f"primary: for {self.task} it is one of {', '.join(DECIDES[self.task])}")
        other: Task = "generation" if self.task == "classification" else "classification"
        for field in ALONE[other]:
            if getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(f"{field}: only for task: {other}")
        if self.task == "classification":
            self._can_classify()
            return self
        for field in ("eval", "collection"):
            if getattr(self, field) is None:
                raise ValueError(f"{field} is needed")
        for arm in self.arms:
            needed = TUNED.get(arm)
            if needed and not self.adapters(needed):
                raise ValueError(f"arms: {arm!r} needs {needed!r}")
        return self

    def _can_classify(self) -> None:
        unknown = [arm for arm in self.arms if arm not in CLASSIFIES]
        if unknown:
            raise ValueError(f"arms: {unknown[0]!r} is none for classification: {', '.join(CLASSIFIES)}")
        if self.engine.name == "vllm":
            raise ValueError("engine.name: vllm can't weigh given labels, transformers does (so: leave it out)")
        if self.eval is not None and self.eval_fraction != type(self).model_fields["eval_fraction"].default:
            raise ValueError("eval_fraction: eval says what is asked (so: leave one of them out)")
        if self.train is None:
            raise ValueError("train is needed: the rows whose labels are known")
        if not self.classifier and {"tuned", "tuned_rag"} & set(self.arms):
            raise ValueError("classifier is needed for the arms tuned and tuned_rag")
