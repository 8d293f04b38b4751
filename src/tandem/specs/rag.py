"""`kind: rag`: the arguments of the endpoint's Ray Serve application."""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from tandem.specs.adapters import AdapterSpec, CanarySpec, LoraSpec, ServedAdapters
from tandem.specs.base import Name, PromptSpec, Spec, Uri
from tandem.specs.compare import EngineSpec
from tandem.specs.search import SearchSpec

BASE_MODEL = "base"  # the base model's name in requests
EMBEDDER = "embedder"  # the collection's embedder's
# May change while the application runs, through the Serve config's `user_config`; the rest needs new replicas, and so
# do the places in these that the retriever was opened with.
RECONFIGURABLE = frozenset(
    {"adapters", "cache", "canary", "conversation", "default_model", "limits", "log_prompts", "prompt", "retriever"}
)
FIXED_IN_RECONFIGURABLE = ("retriever.collection", "retriever.rerank", "retriever.dtype", "cache.embeddings")


class RetrieverSpec(SearchSpec):
    """Which collection is searched, and how."""

    collection: Name = Field(description="when its alias moves on, the endpoint follows within seconds")
    dtype: Literal["auto", "float32"] = Field(
        "auto",
        description="of the embedder, in the endpoint; auto: bf16 where the processor computes in it and questions "
        "find the same",
    )


class ReplicaSpec(Spec):
    """Between how many replicas, and at what load."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(8, gt=0, description="of one replica, running and waiting")
    max_queue_age_s: float = Field(
        5.0, gt=0, description="requests that wait longer without a break ask for one replica more, whatever the load"
    )
    max_surge_percent: int = Field(
        0, ge=0, le=100, description="new replicas beside the old ones in a redeploy; 0: old ones are stopped first"
    )
    upscale_delay_s: float = Field(5.0, ge=0)
    downscale_delay_s: float = Field(120.0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> ReplicaSpec:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class BackendReplicaSpec(ReplicaSpec):
    """Of what the ingress asks, which waits in turn; the ingress's own limit is `limits.max_ongoing_requests`."""

    max_ongoing_requests: int | None = Field(
        None,
        ge=1,
        description="that one replica has at once; further ones wait for any replica, and their wait counts as queue "
        "age; default: what the part works on together and as many again (rag_sequence 2, transformers 32, else 64)",
    )


class AutoscalingSpec(Spec):
    """Each part of the endpoint scales apart; the retriever and the language model to zero where `min_replicas` is."""

    ingress: ReplicaSpec = ReplicaSpec(target_ongoing_requests=32, max_surge_percent=100)
    retriever: BackendReplicaSpec = BackendReplicaSpec(target_ongoing_requests=16, max_surge_percent=100)
    llm: BackendReplicaSpec = BackendReplicaSpec()

    @model_validator(mode="after")
    def _somebody_answers(self) -> AutoscalingSpec:
        if not self.ingress.min_replicas:
            raise ValueError("ingress.min_replicas must be at least 1: it answers while the others start")
        return self


class LimitSpec(Spec):
    """What one request may cost."""

    max_tokens: int = Field(512, ge=1, description="of an answer, whatever the request asks for")
    default_max_tokens: int = Field(128, ge=1)
    timeout_s: float = Field(120.0, gt=0)
    max_body_bytes: int = Field(1_000_000, ge=1)
    body_timeout_s: float = Field(
        10.0, gt=0, description="in which a request's body must be there; it counts from then"
    )
    max_choices: int = Field(8, ge=1, le=128, description="answers to one request (`n`)")
    max_ongoing_requests: int = Field(
        64, ge=1, description="in one ingress replica, waiting ones counted; above it: 429 with Retry-After"
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="of one API key, at each ingress replica; the key's own entry counts before it"
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="of one API key, prompt and answer, at each ingress replica; the key's own counts before it",
    )


class ConversationSpec(Spec):
    """What is searched for when a question follows others, and what is said when nothing is found."""

    condense: bool = Field(
        True, description="the base model rewrites a question that follows others, so that it is found without them"
    )
    condense_prompt: str = Field(
        "Rewrite the last question so that it can be understood without the conversation. Give the question alone.\n\n"
        "{conversation}\n\nLast question: {question}\nRewritten question:",
        description="{conversation} and {question} are replaced",
    )
    condense_max_tokens: int = Field(64, ge=1)
    condense_timeout_s: float = Field(10.0, gt=0, description="after it the last question is searched for as it is")
    nothing_found: str | None = Field(
        "I found nothing about this in the documents.",
        description="the answer when no passage is found (`retriever.min_similarity`); null: the model answers without",
    )


class CacheSpec(Spec):
    """What a replica remembers."""

    answers: int = Field(
        0,
        ge=0,
        description="answers in each ingress replica, by prompt, adapter and sampling; sampled ones need a seed",
    )
    answers_ttl_s: float = Field(600.0, gt=0)
    embeddings: int = Field(1000, ge=0, description="questions' vectors in each retriever replica")


class UpstreamSpec(Spec):
    """Somebody else's OpenAI-compatible API; `model` of the application then only lends its tokenizer, to count."""

    name: Literal["upstream"]
    url: str = Field(pattern=r"^https?://", description="with its path: https://host/v1")
    model: str = Field(min_length=1, description="the model's name there")
    api_key_env: str | None = Field(None, description="the variable that holds the key where replicas run")
    max_model_len: int = Field(4096, ge=64, description="tokens of prompt and answer together")
    timeout_s: float = Field(
        60.0,
        gt=0,
        description="that it may send nothing: before the first piece, retries included, and between pieces; a plain "
        "answer is one piece",
    )
    max_retries: int = Field(2, ge=0, le=10, description="of what fails before the first piece")
    breaker_failures: int = Field(5, ge=1, description="after so many in a row it isn't asked for a while")
    breaker_pause_s: float = Field(30.0, gt=0)


class RagSequenceSpec(Spec):
    """The generator of Lewis et al. 2020 (arXiv 2005.11401): it reads each passage alone with the question.

    `model` of the application is transformers' `RagSequenceForGeneration`; the answer is the one that is likeliest over
    all passages, each weighed by its score.
    """

    name: Literal["rag_sequence"]
    beams: int = Field(
        1, ge=1, le=32, description="hypotheses kept of each passage; 1 is greedy, as in the paper for short answers"
    )
    max_model_len: int = Field(1024, ge=64, description="tokens of an answer, at most: its decoder's positions")


def _engine_kind(engine: Any) -> str:
    name = engine.get("name") if isinstance(engine, dict) else getattr(engine, "name", None)
    return name if name in ("upstream", "rag_sequence") else "own"


Engine = Annotated[
    Annotated[EngineSpec, Tag("own")]
    | Annotated[UpstreamSpec, Tag("upstream")]
    | Annotated[RagSequenceSpec, Tag("rag_sequence")],
    Discriminator(_engine_kind),
]


class RagSpec(Spec):
    """A base model, its adapters, and the collection that grounds them."""

    kind: Literal["rag"]
    name: Name
    model: Uri
    adapters: tuple[AdapterSpec, ...] = ()
    lora: LoraSpec = LoraSpec()
    default_model: Name | None = Field(
        None, description="answers a request whose `model` is this spec's name; default: the base"
    )
    canary: CanarySpec | None = None
    retriever: RetrieverSpec
    prompt: PromptSpec = PromptSpec()
    conversation: ConversationSpec = ConversationSpec()
    engine: Engine = EngineSpec()
    cpus_per_replica: float = Field(1, ge=0)
    gpus_per_replica: float | None = Field(
        None,
        ge=0,
        description="a share of one, or several, over which vLLM divides the model (tensor parallel); default: 1 where "
        "the cluster has GPUs, else 0",
    )
    autoscaling: AutoscalingSpec = AutoscalingSpec()
    limits: LimitSpec = LimitSpec()
    cache: CacheSpec = CacheSpec()
    api_keys: str | None = Field(
        None, description="JSON file of {sha256 of key: tenant, or tenant and limits}; default: the cluster's own"
    )
    log_prompts: bool = Field(False, description="write prompts to the ingress's log; never anything of them otherwise")

    @model_validator(mode="after")
    def _gpus_can_be_used(self) -> RagSpec:
        gpus = self.gpus_per_replica
        if gpus is None or gpus <= 1:
            return self
        if gpus != int(gpus):
            raise ValueError(f"gpus_per_replica: {gpus:g} is neither a share of one GPU nor a number of whole ones")
        if not isinstance(self.engine, EngineSpec) or self.engine.name == "transformers":
            raise ValueError("gpus_per_replica: only vLLM divides a model over several GPUs")
        return self

    @model_validator(mode="after")
    def _models_are_told_apart(self) -> RagSpec:
        if self.adapters and isinstance(self.engine, UpstreamSpec):
            raise ValueError("adapters: an upstream has models of its own; deploy an application for each")
        adapters = [adapter.name for adapter in self.adapters]
        taken = {self.name, BASE_MODEL, EMBEDDER}
        for name in adapters:
            if name in taken:
                raise ValueError(f"adapters: {name!r} already names another model here")
            taken.add(name)
        if self.default_model not in {None, BASE_MODEL, *adapters}:
            known = ", ".join([BASE_MODEL, *adapters])
            raise ValueError(f"default_model: {self.default_model!r} is none of {known}")
        if self.canary is not None and self.canary.model not in adapters:
            raise ValueError(f"canary.model: {self.canary.model!r} is none of the adapters: {', '.join(adapters)}")
        if self.canary is not None and self.canary.model == self.default_model:
            raise ValueError(f"canary.model: {self.canary.model!r} is default_model: it answers all of it already")
        return self

    @model_validator(mode="after")
    def _an_upstream_that_hangs_is_noticed(self) -> RagSpec:
        if isinstance(self.engine, UpstreamSpec) and self.engine.timeout_s >= self.limits.timeout_s:
            raise ValueError(
                f"engine.timeout_s: {self.engine.timeout_s:g} must be below limits.timeout_s, which is "
                f"{self.limits.timeout_s:g}: a request that ends first says nothing of the upstream"
            )
        return self

    @model_validator(mode="after")
    def _rag_sequence_gets_what_it_reads(self) -> RagSpec:
        if not isinstance(self.engine, RagSequenceSpec):
            return self
        if self.adapters:
            raise ValueError("adapters: rag_sequence takes none")
        if self.retriever.mode != "dense" or self.retriever.chooses:
            raise ValueError(
                "retriever: rag_sequence weighs passages by their inner products with the question: set mode: dense, "
                "and no min_similarity, rerank or diversity"
            )
        if self.prompt != PromptSpec():
            raise ValueError("prompt: rag_sequence reads passages in the form that it was trained with")
        if self.conversation.nothing_found is None:
            raise ValueError("conversation.nothing_found: rag_sequence can't answer without passages")
        return self

    def user_config(self) -> dict[str, Any]:
        """What the ingress can take over while it runs, as JSON types; of a canary nothing where there is none."""
        settings = self.canonical()
        return {name: settings[name] for name in sorted(RECONFIGURABLE) if name != "canary" or settings[name]}

    def served_adapters(self, *, max_rank: int | None) -> ServedAdapters:
        """What the language model's replicas start with.

        Args:
            max_rank: See `ServedAdapters`.
        """
        uris = {adapter.name: adapter.uri for adapter in self.adapters}
        return ServedAdapters(adapters=uris, max_rank=max_rank, required=True)

    def needs_new_replicas(self, other: RagSpec) -> list[str]:
        """The places of the spec that differ from another one and can't change while the application runs."""
        mine, theirs = self.canonical(), other.canonical()
        places = [name for name in mine if name not in RECONFIGURABLE and mine[name] != theirs[name]]
        return places + [at for at in FIXED_IN_RECONFIGURABLE if attrgetter(at)(self) != attrgetter(at)(other)]
