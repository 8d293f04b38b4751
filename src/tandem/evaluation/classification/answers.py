"""What each arm is asked, and what it answers.

base: a language model weighs the labels after a prompt that lists them. rag: the same, after labelled examples that
are like the text (Liu et al. 2022, arXiv 2101.06804). tuned: the trained head. tuned_rag: the head with the neighbours'
vote mixed in (Khandelwal et al. 2020, arXiv 1911.00172).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.artifacts.job import JobContext
from tandem.data.quarantine import count_quarantined
from tandem.data.rows import QaRow
from tandem.data.splits import split_sha256, take
from tandem.evaluation.asking.arms import Arm, Messages, Passage, arms_of
from tandem.evaluation.asking.budget import planned, turns_of
from tandem.evaluation.asking.generate import Question, answer_all
from tandem.evaluation.asking.items import Answer, AnswerLog, answer_key
from tandem.evaluation.classification.classifiers import Classifier, held_out, read_classifier, selection_notes
from tandem.evaluation.classification.heads import Head, HeadEngine
from tandem.evaluation.classification.neighbours import Neighbours, agreement, find_neighbours, lineage, votes
from tandem.evaluation.classification.prompt import beginning, label_prompt
from tandem.evaluation.classification.rows import LABEL, Texts, length_slices, near_repeats, read_texts
from tandem.evaluation.classification.scoring import score_label
from tandem.evaluation.figures.costs import mean_cost
from tandem.evaluation.figures.scoring import ScoredItem
from tandem.evaluation.figures.slices import Slices
from tandem.evaluation.figures.summary import Runs
from tandem.evaluation.report.building import Inputs
from tandem.evaluation.schema import NearDuplicates
from tandem.models.engines import Engine, GenerationRequest
from tandem.specs.compare import CompareSpec

if TYPE_CHECKING:
    from tandem.evaluation.tools import Tools

CLASSIFIER = "classifier"
LENGTH, NEIGHBOURS = "text length", "neighbours' labels"


def class_arms(spec: CompareSpec) -> tuple[Arm, ...]:
    """The spec's arms, in its order; what a trained one needs is the classifier."""
    return tuple(Arm(arm.name, CLASSIFIER if arm.adapter else None, arm.context) for arm in arms_of(spec))


def answer(spec: CompareSpec, context: JobContext, tools: Tools) -> tuple[Inputs, Runs]:
    """Ask every arm for the label of every text; answers that are there already aren't asked for again.

    Args:
        spec: What to compare.
        context: The job.
        tools: The world.

    Returns:
        What the report says of where its figures come from; and the scored items by arm and classifier.

    Raises:
        DataError: Rows that can't be used, or texts all of which a classifier was trained on.
        ModelError: A model or classifier that can't be used, or a classifier of other labels.
    """
    arms = class_arms(spec)
    texts = read_texts(spec, context)
    trained = spec.adapters(CLASSIFIER) if any(arm.adapter for arm in arms) else ()
    classifiers = [read_classifier(uri, texts.labels, storage=context.storage) for uri in trained]
    apart, notes = held_out(classifiers, texts, where=spec.eval or spec.train or "")
    rows = take(apart, spec.limit)
    neighbours = Neighbours({}, 0.0)
    if any(arm.context != "none" for arm in arms):
        neighbours = find_neighbours(
            spec,
            texts.train,
            rows,
            context.dir / "neighbours.json",
            lambda: tools.encoder(spec.neighbours.embedder, context.storage),
            lambda done, total: context.progress("neighbours", done, total),
            tools.clock,
        )
    asked, runs = _Asking(spec, context, tools, texts, classifiers, neighbours).all(arms, rows)
    notes = [*texts.notes, *notes]
    if len(asked) < len(rows):
        notes.append(f"{len(asked)} of {len(rows)} texts were asked, as many as fit into {spec.budget_s:g} s.")
    notes += selection_notes(classifiers, asked)
    notes += _shortened(spec, arms, asked)
    cost = mean_cost([each.artifact.train_cost(spec.prices) for each in classifiers])
    # The split lets none stand on both sides; of what else a classifier learnt from only hashes are known.
    ours = all(each.artifact.train_sha256 == texts.train_sha256 for each in classifiers)
    inputs = Inputs(
        spec=spec,
        arms=arms,
        split_sha256=split_sha256(asked),
        asked=len(asked),
        available=len(texts.asked),
        quarantined=count_quarantined(context.quarantine_path),
        leaked=len(texts.asked) - len(apart),
        near_duplicates=NearDuplicates(
            training=0 if ours else None, index=0, evaluation=near_repeats(asked), examples=(), excluded=0
        ),
        slices=_slices(asked, texts, neighbours),
        train=_learnt(texts, classifiers),
        train_costs={arm.name: cost if arm.adapter else 0.0 for arm in arms},
        trained={CLASSIFIER: [each.artifact.lineage() for each in classifiers]} if classifiers else {},
        index=lineage(spec, texts.train) if neighbours.found else {},
        machine=tools.machine(),
        engine=HeadEngine.name,
        notes=notes,
    )
    return inputs, runs


def _learnt(texts: Texts, classifiers: Sequence[Classifier]) -> dict[str, str | None]:
    """The rows that neighbours come from, and those that the first classifier was trained on."""
    return {"train": texts.train_sha256} | ({CLASSIFIER: classifiers[0].artifact.train_sha256} if classifiers else {})


def _shortened(spec: CompareSpec, arms: Sequence[Arm], rows: Sequence[QaRow]) -> list[str]:
    """What is to be said of texts that a language model saw the beginning of."""
    words = spec.classify_prompt.text_words
    cut = sum(beginning(row.question, words) != row.question for row in rows)
    names = [arm.name for arm in arms if arm.adapter is None]
    return [f"{', '.join(names)}: of {cut} texts the first {words} words were shown."] if cut and names else []


def _slices(rows: Sequence[QaRow], texts: Texts, neighbours: Neighbours) -> Slices:
    found: dict[str, Mapping[str, str]] = {
        LABEL: {row.id: row.answers[0] for row in rows},
        LENGTH: length_slices(list(rows)),
    }
    if neighbours.found:
        found[NEIGHBOURS] = {row.id: agreement(neighbours.found[row.id], texts.train, row.answers[0]) for row in rows}
    return {column: values for column, values in found.items() if len(set(values.values())) > 1}


class _Asking:
    """All that the arms need to be asked; models are opened when the first text needs them, and closed at the end."""

    def __init__(
        self,
        spec: CompareSpec,
        context: JobContext,
        tools: Tools,
        texts: Texts,
        classifiers: Sequence[Classifier],
        neighbours: Neighbours,
    ) -> None:
        self._spec = spec
        self._context = context
        self._tools = tools
        self._texts = texts
        self._classifiers = classifiers
        self._neighbours = neighbours
        self._stack = ExitStack()
        self._scorer = cache(self._open_scorer)
        self._head = cache(self._open_head)
        self._counter = cache(self._open_counter)

    def all(self, arms: Sequence[Arm], rows: Sequence[QaRow]) -> tuple[list[QaRow], Runs]:
        """The texts that were asked, and the scored answers by arm and classifier."""
        turns = turns_of(arms, {CLASSIFIER: len(self._classifiers)})
        # With a budget texts are drawn by label.
        by_label = self._spec.model_copy(update={"slices": (LABEL,)})
        with self._stack:
            asked, answers = planned(by_label, turns, rows, self._ask, self._context, self._tools.clock)
        runs: dict[str, list[list[ScoredItem]]] = {arm.name: [] for arm in arms}
        for (arm, seed), given in answers.items():
            runs[arm.name].append(
                [
                    score_label(
                        arm,
                        row,
                        each,
                        self._texts.labels,
                        self._shown_with(arm, row),
                        self._neighbours.seconds,
                        seed=seed,
                    )
                    for row, each in zip(asked, given, strict=True)
                ]
            )
        return asked, runs

    def _shown_with(self, arm: Arm, row: QaRow) -> tuple[Passage, ...]:
        if arm.context == "none":
            return ()
        return self._neighbours.passages(row.id, self._texts.train, self._spec.classify_prompt.example_words)

    def _ask(self, arm: Arm, seed: int, rows: Sequence[QaRow], told: Callable[[int, int], None]) -> list[Answer]:
        name = arm.name if seed == 0 else f"{arm.name}-{seed + 1}"
        log = AnswerLog(self._context.dir / "answers" / f"{name}.jsonl")
        if arm.adapter is None:
            questions = [self._prompted(arm, row) for row in rows]
            return answer_all(questions, log, self._scorer, told, self._tools.clock)
        questions = [self._read(arm, seed, row) for row in rows]
        return answer_all(questions, log, cache(lambda: self._engine(arm, seed, rows)), told, self._tools.clock)

    def _prompted(self, arm: Arm, row: QaRow) -> Question:
        """A text as a language model is asked for its label."""
        spec, labels = self._spec, self._texts.labels
        examples = []
        if arm.context != "none":
            near = [self._texts.train[at] for at, _ in self._neighbours.found[row.id]]
            examples = [(each.text, each.label) for each in near]
        count, longest = self._counter()
        room = spec.engine.max_model_len - longest
        prompt = label_prompt(spec.classify_prompt, row.question, labels, examples, room=room, count=count)
        key = answer_key(prompt.messages, id=row.id, model=spec.model, labels=labels, engine=spec.engine.canonical())
        request = GenerationRequest(prompt.messages, longest) if prompt.fits else None
        return Question(row.id, key, request, prompt.shown)

    def _read(self, arm: Arm, seed: int, row: QaRow) -> Question:
        """A text as a trained head reads it."""
        spec, classifier = self._spec, self._classifiers[seed]
        near = self._neighbours.found[row.id] if arm.context != "none" else ()
        voted = [(self._texts.train[at].label, likeness) for at, likeness in near]
        key = answer_key(
            [{"role": "user", "content": row.question}],
            id=row.id,
            classifier=classifier.artifact.sha256,
            labels=classifier.labels,
            engine=spec.engine.canonical(),
            neighbours=[voted, spec.neighbours.weight, spec.neighbours.temperature] if near else None,
        )
        return Question(row.id, key, GenerationRequest(row.question, 1), len(near))

    def _engine(self, arm: Arm, seed: int, rows: Sequence[QaRow]) -> Engine:
        spec, labels = self._spec.neighbours, self._classifiers[seed].labels
        mixed = {}
        if arm.context != "none":
            mixed = {
                row.question: votes(self._neighbours.found[row.id], self._texts.train, labels, spec.temperature)
                for row in rows
            }
        return HeadEngine(self._head(seed), labels, mixed, spec.weight)

    def _open_scorer(self) -> Engine:
        self._context.progress("load", 0, 1)
        opened = self._tools.scorer(self._spec.engine, self._model(), self._texts.labels)
        self._stack.callback(opened.close)
        self._context.progress("load", 1, 1)
        return opened

    def _open_head(self, seed: int) -> Head:
        self._context.progress("load", 0, 1)
        opened = self._tools.head(self._spec.engine, self._classifiers[seed], self._context.storage)
        self._stack.callback(opened.close)
        self._context.progress("load", 1, 1)
        return opened

    def _open_counter(self) -> tuple[Callable[[Messages], int], int]:
        """What counts a prompt's tokens; and those of the longest label, its turn around it."""
        count = self._tools.counter(self._model())
        return count, max(count([{"role": "user", "content": label}]) for label in self._texts.labels)

    def _model(self) -> Path:
        return self._tools.model(self._spec.model, self._context.storage)
