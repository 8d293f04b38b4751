"""Asking: batch by batch through the engine, what was answered before left out, failures told from a broken engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tandem.errors import InputError, TandemError
from tandem.evaluation.asking.items import Answer, AnswerLog

if TYPE_CHECKING:
    from tandem.models.engines import Engine, Generation, GenerationRequest

# So much is lost at most when a job is cut off; enough for an engine to fill its batches.
BATCH = 64

Clock = Callable[[], float]


@dataclass(frozen=True)
class Question:
    """One prompt to be answered.

    Attributes:
        id: The question's.
        key: See `answer_key`.
        request: For the engine; None where the prompt doesn't fit.
        shown: Passages in it.
    """

    id: str
    key: str
    request: GenerationRequest | None
    shown: int


def answer_all(
    questions: Sequence[Question],
    log: AnswerLog,
    engine: Callable[[], Engine],
    progress: Callable[[int, int], None],
    clock: Clock = time.perf_counter,
) -> list[Answer]:
    """Answers to all questions of an arm, from the log where they are there already.

    Args:
        questions: In the order of the result.
        log: Read first, then appended to after each batch.
        engine: Gives the engine; not called when nothing is missing.
        progress: Called with answers there, answers wanted.
        clock: In seconds.

    Raises:
        TandemError: The engine is broken: it crashes on every question of a batch.
    """
    answers = log.read()
    # Prompts of like length in a batch waste less padding; the order of the result doesn't depend on it.
    missing = sorted((q for q in questions if q.key not in answers), key=_length)
    done = len(questions) - len(missing)
    progress(done, len(questions))
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        fresh = [_failed(q, "the question is too long for the model", 0.0) for q in batch if q.request is None]
        asked = [q for q in batch if q.request is not None]
        if asked:
            alive = any(answer.failure is None for answer in answers.values())
            fresh += _ask(asked, engine(), alive, clock)
        log.append(fresh)
        answers |= {answer.key: answer for answer in fresh}
        done += len(batch)
        progress(done, len(questions))
    return [answers[q.key] for q in questions]


def _length(question: Question) -> tuple[int, str]:
    request = question.request
    return (len(str(request.messages)) if request else 0, question.id)


def _ask(batch: Sequence[Question], engine: Engine, alive: bool, clock: Clock) -> list[Answer]:
    started = clock()
    try:
        generations = engine.generate([q.request for q in batch if q.request is not None])
    except (InputError, RuntimeError, ValueError):
        # One question can bring a batch down: the others must not be counted as failed with it.
        return _ask_singly(batch, engine, alive, clock)
    seconds = (clock() - started) / len(batch)
    return [_answered(q, generation, seconds) for q, generation in zip(batch, generations, strict=True)]


def _ask_singly(batch: Sequence[Question], engine: Engine, alive: bool, clock: Clock) -> list[Answer]:
    answers: list[Answer] = []
    crash: Exception | None = None
    for question in batch:
        assert question.request is not None
        started = clock()
        try:
            (generation,) = engine.generate([question.request])
        except (InputError, RuntimeError, ValueError) as error:
            crash = crash if isinstance(error, InputError) else error
            answers.append(_failed(question, f"{type(error).__name__}: {error}", clock() - started))
        else:
            answers.append(_answered(question, generation, clock() - started))
    # A lone question that crashes is at fault itself if the engine answered others before.
    if crash is not None and all(answer.failure for answer in answers) and not (alive and len(batch) == 1):
        raise _broken(crash) from crash
    return answers


def _broken(error: Exception) -> TandemError:
    return TandemError(
        f"the engine fails on every question: {type(error).__name__}: {error}",
        remedy="see the job's log; submit again to go on with the answers that are there",
    )


def _answered(question: Question, generation: Generation, seconds: float) -> Answer:
    return Answer(
        id=question.id,
        key=question.key,
        prediction=generation.text.strip(),
        failure=None,
        shown=question.shown,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=generation.completion_tokens,
        finish_reason=generation.finish_reason,
        latency_ms=generation.latency_ms,
        seconds=seconds,
    )


def _failed(question: Question, reason: str, seconds: float) -> Answer:
    return Answer(question.id, question.key, "", reason, question.shown, 0, 0, "failed", None, seconds)
