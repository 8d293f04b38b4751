"""What a comparison needs of the world."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.evaluation.asking.arms import Messages
from tandem.evaluation.asking.contexts import Searcher
from tandem.evaluation.asking.placing import Place, machine_of, where_gpus_are
from tandem.evaluation.classification.classifiers import Classifier
from tandem.evaluation.classification.heads import Head
from tandem.evaluation.classification.neighbours import Encoder
from tandem.evaluation.classification.opening import open_encoder, open_head
from tandem.evaluation.figures.costs import Machine
from tandem.evaluation.report.tracking import log_report
from tandem.evaluation.schema import Report
from tandem.models.engines import Engine, open_engine
from tandem.models.engines.likelihood import open_likelihoods
from tandem.models.loading import model_path
from tandem.specs.compare import EngineSpec
from tandem.specs.index import EmbedderSpec


def _here(work: Callable[..., Any]) -> Callable[..., Any]:
    return work


@dataclass(frozen=True)
class Tools:
    """All that a comparison needs of the world, so that tests can give it another one.

    Attributes:
        model: The base model's folder, from its URI and the storage.
        searcher: A retriever over a collection, for a tenant where it has those, and what is known of that collection.
        engine: What generates.
        counter: For a model's folder, a function that counts a prompt's tokens.
        machine: What the engine runs on.
        track: Logs a finished report; returns the id under which.
        clock: In seconds.
        place: Gives the same work, done where engines compute.
        encoder: What embeds texts, from its spec and the storage.
        scorer: What weighs labels: a language model in a folder.
        head: A trained classifier, its base looked for in the storage.
    """

    model: Callable[[str, Path], Path]
    searcher: Callable[[Cluster, str, str | None], tuple[Searcher, Mapping[str, Any]]]
    engine: Callable[[EngineSpec, Path, Mapping[str, Path]], Engine]
    counter: Callable[[Path], Callable[[Messages], int]]
    machine: Callable[[], Machine]
    track: Callable[[Report, Path, JobContext], str | None]
    clock: Callable[[], float] = time.perf_counter
    place: Place[Any] = _here
    encoder: Callable[[EmbedderSpec, Path], Encoder] = open_encoder
    scorer: Callable[[EngineSpec, Path, Sequence[str]], Engine] = open_likelihoods
    head: Callable[[EngineSpec, Classifier, Path], Head] = open_head


def real_tools(cluster: Cluster) -> Tools:
    """The cluster's own."""
    return Tools(
        model=lambda uri, storage: model_path(uri, storage=storage),
        searcher=_open_searcher,
        engine=open_engine,
        counter=_token_counter,
        machine=lambda: machine_of(cluster),
        place=lambda work: where_gpus_are(work, cluster),
        track=log_report,
    )


def _open_searcher(cluster: Cluster, collection: str, tenant: str | None) -> tuple[Searcher, Mapping[str, Any]]:
    from tandem.retrieval.actor import join_ray
    from tandem.retrieval.tenants import open_for_job

    if cluster.qdrant_url is None:
        # The embedded store is an actor of the cluster.
        join_ray(cluster)
    retriever = open_for_job(cluster, collection, tenant)
    return retriever, asdict(retriever.snapshot) if retriever.snapshot else {}


def _token_counter(model: Path) -> Callable[[Messages], int]:
    from tandem.models.engines.prompting import load_tokenizer, token_ids

    tokenizer = load_tokenizer(model)
    return lambda messages: len(token_ids(tokenizer, messages))
