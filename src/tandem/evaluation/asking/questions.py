"""Questions and answers: what each arm is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from tandem.artifacts.job import JobContext
from tandem.artifacts.manifest import MANIFEST, read_manifest
from tandem.data.quarantine import count_quarantined
from tandem.data.rows import QaRow, read_qa
from tandem.data.splits import split_sha256, take
from tandem.evaluation.asking.adapters import (
    Adapter,
    check_base,
    held_out,
    learnt_answers,
    prompt_notes,
    read_adapter,
    same_model,
    selection_notes,
)
from tandem.evaluation.asking.arms import Arm, Contexts, Messages, arms_of, build_prompt
from tandem.evaluation.asking.budget import planned, turns_of
from tandem.evaluation.asking.contexts import contexts_for
from tandem.evaluation.asking.generate import Question, answer_all
from tandem.evaluation.asking.items import Answer, AnswerLog, answer_key
from tandem.evaluation.asking.leaks import (
    find_near_duplicates,
    kept_questions,
    near_duplicate_notes,
    near_duplicates_of_training,
)
from tandem.evaluation.figures.costs import mean_cost
from tandem.evaluation.figures.metrics import answer_in_context, recall
from tandem.evaluation.figures.scoring import ScoredItem, score
from tandem.evaluation.figures.slices import check_slices, question_slices
from tandem.evaluation.figures.summary import Runs
from tandem.evaluation.report.building import Inputs
from tandem.evaluation.tools import Tools
from tandem.models.engines import Engine, GenerationRequest
from tandem.specs.compare import CompareSpec

Adapters = Mapping[str, Sequence[Adapter]]


def answer(spec: CompareSpec, context: JobContext, tools: Tools) -> tuple[Inputs, Runs]:
    """Ask every arm every question; answers that are there already aren't asked for again.

    Args:
        spec: What to compare.
        context: The job.
        tools: The world.

    Returns:
        What the report says of where its figures come from; and the scored items by arm and adapter.
    """
    assert spec.eval is not None  # the spec has seen to it
    arms = arms_of(spec)
    available = read_qa(Path(spec.eval), quarantine=context.quarantine_path, max_quarantined=spec.max_quarantined)
    adapters: Adapters = {
        field: [read_adapter(uri, storage=context.storage) for uri in spec.adapters(field)]
        for field in dict.fromkeys(arm.adapter for arm in arms if arm.adapter is not None)
    }
    everyone = [adapter for each in adapters.values() for adapter in each]
    same = same_model(context.storage)
    for adapter in everyone:
        check_base(adapter, spec.model, same=same)
    apart, notes = held_out(everyone, available, where=spec.eval)
    notes += prompt_notes(everyone, spec.prompt)
    repeated = near_duplicates_of_training(everyone, apart)
    kept = kept_questions(apart, repeated, spec.near_duplicates, where=spec.eval)
    rows = take(kept, spec.limit)
    check_slices(spec.slices, [row.extra for row in rows], where=spec.eval)
    model = tools.model(spec.model, context.storage)
    contexts = contexts_for(
        spec,
        arms,
        rows,
        context.dir / "contexts.json",
        lambda: tools.searcher(context.cluster, spec.collection or "", spec.tenant),
        lambda done, total: context.progress("retrieve", done, total),
    )
    asked, runs, engine = _ask(spec, arms, rows, contexts, adapters, model, context, tools)
    found = {row.id: recall(row.source, [p.source for p in contexts.retrieved.get(row.id, ())]) for row in asked}
    answerable = {
        row.id: answer_in_context(row.answers, [p.text for p in contexts.retrieved.get(row.id, ())]) for row in asked
    }
    duplicates = find_near_duplicates(asked, everyone, repeated, contexts.retrieved, excluded=len(apart) - len(kept))
    notes += near_duplicate_notes(duplicates, asked=len(asked))
    notes += selection_notes(everyone, asked)
    learnt = learnt_answers(everyone, asked)
    if len(asked) < len(rows):
        notes.append(
            f"{len(asked)} of {len(rows)} questions were asked, as many as fit into {spec.budget_s:g} s: with more of "
            "them the intervals would be narrower."
        )
    costs = {
        arm.name: mean_cost([each.train_cost(spec.prices) for each in adapters[arm.adapter]]) if arm.adapter else 0.0
        for arm in arms
    }
    inputs = Inputs(
        spec=spec,
        arms=arms,
        split_sha256=split_sha256(asked),
        asked=len(asked),
        available=len(available),
        quarantined=count_quarantined(context.quarantine_path),
        leaked=len(available) - len(apart),
        near_duplicates=duplicates,
        slices=question_slices(
            spec.slices, asked, found if contexts.retrieved else {}, learnt, answerable if contexts.retrieved else None
        ),
        train={name: each[0].train_sha256 for name, each in adapters.items()},
        train_costs=costs,
        trained={name: [adapter.lineage() for adapter in each] for name, each in adapters.items()},
        index={"collection": spec.collection, "top_k": spec.top_k, **contexts.index},
        machine=tools.machine(),
        engine=engine,
        notes=notes,
        model_id=read_manifest(model).id if (model / MANIFEST).is_file() else None,
    )
    return inputs, runs


def _ask(
    spec: CompareSpec,
    arms: Sequence[Arm],
    rows: Sequence[QaRow],
    contexts: Contexts,
    adapters: Adapters,
    model: Path,
    context: JobContext,
    tools: Tools,
) -> tuple[list[QaRow], Runs, str]:
    """The questions that were asked, the scored answers, and what generated them."""
    count = tools.counter(model)
    name_path = context.dir / "engine"
    names = {field: [_name(field, seed) for seed in range(len(each))] for field, each in adapters.items()}
    with ExitStack() as stack:

        @cache
        def engine() -> Engine:
            context.progress("load", 0, 1)
            paths = {
                name: adapter.path
                for field, each in adapters.items()
                for name, adapter in zip(names[field], each, strict=True)
            }
            opened = tools.engine(spec.engine, model, paths)
            stack.callback(opened.close)
            name_path.write_text(opened.name)
            context.progress("load", 1, 1)
            return opened

        def ask(arm: Arm, seed: int, some: Sequence[QaRow], told: Callable[[int, int], None]) -> list[Answer]:
            adapter = adapters[arm.adapter][seed] if arm.adapter else None
            name = names[arm.adapter][seed] if arm.adapter else None
            questions = [_question(spec, arm, row, contexts, adapter, name, count) for row in some]
            return answer_all(questions, AnswerLog(_answers(context, arm, seed)), engine, told, tools.clock)

        turns = turns_of(arms, {field: len(each) for field, each in adapters.items()})
        asked, answers = planned(spec, turns, rows, ask, context, tools.clock)
    runs: dict[str, list[list[ScoredItem]]] = {arm.name: [] for arm in arms}
    for (arm, seed), given in answers.items():
        runs[arm.name].append(
            [
                score(arm, row, answer, contexts.of(arm, row.id), contexts.seconds, seed=seed)
                for row, answer in zip(asked, given, strict=True)
            ]
        )
    # An attempt that finds all answers there opens no engine: they are the earlier one's.
    return asked, runs, name_path.read_text() if name_path.exists() else "none"


def _name(field: str, seed: int) -> str:
    return field if seed == 0 else f"{field}-{seed + 1}"


def _answers(context: JobContext, arm: Arm, seed: int) -> Path:
    return context.dir / "answers" / f"{_name(arm.name, seed)}.jsonl"


def _question(
    spec: CompareSpec,
    arm: Arm,
    row: QaRow,
    contexts: Contexts,
    adapter: Adapter | None,
    name: str | None,
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
    request = GenerationRequest(prompt.messages, spec.max_tokens, adapter=name) if prompt.fits else None
    return Question(row.id, key, request, prompt.shown)
