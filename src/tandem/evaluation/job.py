"""The compare job: the same questions to every arm, then figures, a verdict and a report. Safe to run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tandem.artifacts.job import JobContext
from tandem.config.cluster import Cluster
from tandem.data.rows import QaRow, read_qa
from tandem.data.splits import take
from tandem.errors import DataError
from tandem.evaluation.adapters import Adapter, check_base, held_out, prompt_notes, read_adapter, same_model
from tandem.evaluation.arms import Arm, Contexts, Messages, arms_of, build_prompt
from tandem.evaluation.contexts import Searcher, contexts_for
from tandem.evaluation.costs import Machine, this_machine
from tandem.evaluation.generate import Question, answer_all
from tandem.evaluation.items import AnswerLog, answer_key
from tandem.evaluation.report import Inputs, build_report, write_report
from tandem.evaluation.schema import Report
from tandem.evaluation.scoring import ScoredItem, score
from tandem.evaluation.summary import slice_value
from tandem.evaluation.text import verdict_sentence
from tandem.evaluation.tracking import log_report
from tandem.models.engines import Engine, GenerationRequest, open_engine
from tandem.models.loading import model_path
from tandem.specs.compare import CompareSpec, EngineSpec

MANY_VALUES = 50


@dataclass(frozen=True)
class Tools:
    """All that a comparison needs of the world, so that tests can give it another one.

    Attributes:
        model: The base model's folder, from its URI and the storage.
        searcher: A retriever over a collection, and what is known of that collection.
        engine: What generates.
        counter: For a model's folder, a function that counts a prompt's tokens.
        machine: What the engine runs on.
        track: Logs a finished report; returns the id under which.
    """

    model: Callable[[str, Path], Path]
    searcher: Callable[[Cluster, str], tuple[Searcher, Mapping[str, Any]]]
    engine: Callable[[EngineSpec, Path, Mapping[str, Path]], Engine]
    counter: Callable[[Path], Callable[[Messages], int]]
    machine: Callable[[], Machine]
    track: Callable[[Report, Path, JobContext], str | None]


def real_tools() -> Tools:
    """The cluster's own."""
    return Tools(
        model=lambda uri, storage: model_path(uri, storage=storage),
        searcher=_open_searcher,
        engine=open_engine,
        counter=_token_counter,
        machine=this_machine,
        track=log_report,
    )


def _open_searcher(cluster: Cluster, collection: str) -> tuple[Searcher, Mapping[str, Any]]:
    from tandem.retrieval.actor import join_ray
    from tandem.retrieval.retriever import open_retriever

    if cluster.qdrant_url is None:
        # The embedded store is an actor of the cluster.
        join_ray(cluster)
    retriever = open_retriever(cluster, collection)
    return retriever, asdict(retriever.snapshot) if retriever.snapshot else {}


def _token_counter(model: Path) -> Callable[[Messages], int]:
    from tandem.models.engines.prompting import load_tokenizer, token_ids

    tokenizer = load_tokenizer(model)
    return lambda messages: len(token_ids(tokenizer, messages))


def run(spec: CompareSpec, context: JobContext, tools: Tools | None = None) -> dict[str, Any]:
    """Compare the spec's arms on its questions.

    Answers are kept in the job's folder as they come; run again, only what is missing is asked.

    Args:
        spec: What to compare.
        context: The job.
        tools: Other than the cluster's own, in tests.

    Returns:
        ``{"report": folder, "verdict", "winner", "tied", "questions", "failures", "seconds", "mlflow_run"}``.

    Raises:
        DataError: Questions that can't be used, or all of which an adapter was trained on.
        ModelError: A model or adapter that can't be used, or an adapter of another base model.
        NotFoundError: No such collection or artifact.
        TandemError: The engine is broken.
    """
    tools = tools or real_tools()
    started = time.perf_counter()
    arms = arms_of(spec)
    # The file is this job's alone: an earlier attempt would be counted twice.
    context.quarantine_path.unlink(missing_ok=True)
    available = read_qa(Path(spec.eval), quarantine=context.quarantine_path, max_quarantined=spec.max_quarantined)
    adapters = _adapters(spec, arms, context.storage)
    same = same_model(context.storage)
    for adapter in adapters.values():
        check_base(adapter, spec.model, same=same)
    apart, notes = held_out(list(adapters.values()), available, where=spec.eval)
    notes += prompt_notes(list(adapters.values()), spec.prompt)
    rows = take(apart, spec.limit)
    check_slices(spec, rows)
    model = tools.model(spec.model, context.storage)
    contexts = contexts_for(
        spec,
        arms,
        rows,
        context.dir / "contexts.json",
        lambda: tools.searcher(context.cluster, spec.collection),
        lambda done, total: context.progress("retrieve", done, total),
    )
    items, engine_name = _answer(spec, arms, rows, contexts, adapters, model, context, tools)
    context.progress("report", 0, 1)
    inputs = Inputs(
        spec=spec,
        arms=arms,
        rows=rows,
        available=len(available),
        quarantined=_lines(context.quarantine_path),
        adapters=adapters,
        index=contexts.index,
        machine=tools.machine(),
        engine=engine_name,
        leaked=len(available) - len(apart),
        notes=notes,
    )
    report = build_report(context.id, inputs, items)
    folder = context.artifact_dir()
    run_id = write_report(report, items, folder, context, tools.track)
    context.progress("report", 1, 1)
    return {
        "report": str(folder),
        "verdict": verdict_sentence(report.model_dump(mode="json", by_alias=True)),
        "winner": report.verdict.winner,
        "tied": list(report.verdict.tied),
        "questions": len(rows),
        "failures": sum(arm.failures for arm in report.arms.values()),
        "seconds": time.perf_counter() - started,
        "mlflow_run": run_id,
    }


def check_slices(spec: CompareSpec, rows: Sequence[QaRow]) -> None:
    """Refuse a slice that no question has, or that has nearly as many values as there are questions.

    Raises:
        DataError: Naming the column.
    """
    for column in spec.slices:
        values = {slice_value(row.extra, column) for row in rows if column in row.extra}
        if not values:
            known = sorted({key for row in rows for key in row.extra})
            raise DataError(
                f"slices: no question has a column {column!r}",
                where=spec.eval,
                remedy=f"there are: {', '.join(known)}" if known else "the file has no further columns",
            )
        if len(values) > MANY_VALUES:
            raise DataError(
                f"slices: column {column!r} has {len(values)} values, too many to be compared",
                where=spec.eval,
                remedy=f"name columns of at most {MANY_VALUES} values",
            )


def _adapters(spec: CompareSpec, arms: Sequence[Arm], storage: Path) -> dict[str, Adapter]:
    # By the spec's field, which is also the name that the engine knows it by.
    wanted = dict.fromkeys(arm.adapter for arm in arms if arm.adapter is not None)
    return {name: read_adapter(getattr(spec, name), storage=storage) for name in wanted}


def _lines(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _answer(
    spec: CompareSpec,
    arms: Sequence[Arm],
    rows: Sequence[QaRow],
    contexts: Contexts,
    adapters: Mapping[str, Adapter],
    model: Path,
    context: JobContext,
    tools: Tools,
) -> tuple[dict[str, list[ScoredItem]], str]:
    count = tools.counter(model)
    items: dict[str, list[ScoredItem]] = {}
    name_path = context.dir / "engine"
    with ExitStack() as stack:

        @cache
        def engine() -> Engine:
            context.progress("load", 0, 1)
            opened = tools.engine(spec.engine, model, {name: adapter.path for name, adapter in adapters.items()})
            stack.callback(opened.close)
            name_path.write_text(opened.name)
            context.progress("load", 1, 1)
            return opened

        for arm in arms:
            adapter = adapters[arm.adapter] if arm.adapter else None
            questions = [_question(spec, arm, row, contexts, adapter, count) for row in rows]
            answers = answer_all(
                questions,
                AnswerLog(context.dir / "answers" / f"{arm.name}.jsonl"),
                engine,
                lambda done, total, arm=arm: context.progress(f"arm {arm.name}", done, total),  # type: ignore[misc]
            )
            items[arm.name] = [
                score(arm, row, answer, contexts.of(arm, row.id), contexts.seconds)
                for row, answer in zip(rows, answers, strict=True)
            ]
    # An attempt that finds all answers there opens no engine: they are the earlier one's.
    return items, name_path.read_text() if name_path.exists() else "none"


def _question(
    spec: CompareSpec,
    arm: Arm,
    row: QaRow,
    contexts: Contexts,
    adapter: Adapter | None,
    count: Callable[[Messages], int],
) -> Question:
    room = spec.engine.max_model_len - spec.max_tokens
    prompt = build_prompt(spec.prompt, row.question, contexts.of(arm, row.id), room=room, count=count)
    key = answer_key(
        prompt.messages,
        id=row.id,
        model=spec.model,
        adapter=adapter.sha256 if adapter else None,
        max_tokens=spec.max_tokens,
        engine=spec.engine.canonical(),
    )
    request = GenerationRequest(prompt.messages, spec.max_tokens, adapter=arm.adapter) if prompt.fits else None
    return Question(row.id, key, request, prompt.shown)
