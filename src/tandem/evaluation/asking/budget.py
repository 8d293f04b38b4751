"""How many questions fit into the time that there is, and how long the rest will take."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from tandem.artifacts.job import JobContext
from tandem.config.files import write_whole
from tandem.data.rows import QaRow
from tandem.data.splits import rank
from tandem.evaluation.asking.arms import Arm
from tandem.evaluation.asking.generate import BATCH, Clock
from tandem.evaluation.asking.items import Answer
from tandem.evaluation.figures.slices import question_type, slice_value
from tandem.specs.compare import CompareSpec

Turn = tuple[Arm, int]
Ask = Callable[[Arm, int, Sequence[QaRow], Callable[[int, int], None]], list[Answer]]


def turns_of(arms: Sequence[Arm], seeds: Mapping[str, int]) -> list[Turn]:
    """Every arm as often as it has adapters, with the place of each; one without any once."""
    return [(arm, seed) for arm in arms for seed in range(seeds[arm.adapter] if arm.adapter else 1)]


def by_strata(rows: Sequence[QaRow], column: str | None) -> list[QaRow]:
    """The rows in an order of which every beginning has the strata's shares, as nearly as whole rows allow.

    Within a stratum the order is a hash's, so that it depends neither on the file's order nor on chance.

    Args:
        rows: In any order.
        column: By which strata are told apart; None: by what the question asks for.
    """
    strata: dict[str, list[QaRow]] = defaultdict(list)
    for row in rows:
        strata[question_type(row.question) if column is None else slice_value(row.extra, column)].append(row)
    placed = []
    for name, members in strata.items():
        ordered = sorted(members, key=lambda row: (rank(row, "budget"), row.id))
        placed += [((at + 0.5) / len(members), name, row) for at, row in enumerate(ordered)]
    return [row for _, _, row in sorted(placed, key=lambda place: place[:2])]


def planned(
    spec: CompareSpec, turns: Sequence[Turn], rows: Sequence[QaRow], ask: Ask, context: JobContext, clock: Clock
) -> tuple[list[QaRow], dict[Turn, list[Answer]]]:
    """Ask everybody; with a budget only as many questions as fit into it.

    With a budget a first batch is asked of everybody, and its time says how many more fit. That number is kept, so that
    an attempt which goes on asks the same questions.

    Args:
        spec: Its budget.
        turns: Who is asked.
        rows: The questions.
        ask: Asks one arm and adapter some questions, and tells how many are done.
        context: The job, whose folder keeps the number.
        clock: In seconds.

    Returns:
        The questions that were asked, in their order; and by turn the answers to them.
    """
    chosen = list(rows)
    if spec.budget_s is not None:
        ordered = by_strata(rows, next(iter(spec.slices), None))
        fits = _fitting(spec.budget_s, turns, ordered, ask, context, clock)
        within = {row.id for row in ordered[:fits]}
        chosen = [row for row in rows if row.id in within]
    told = _Told(context, len(chosen) * len(turns), clock)
    answers = {}
    for arm, seed in turns:
        answers[arm, seed] = ask(arm, seed, chosen, told.of(arm, seed))
    return chosen, answers


def _fitting(
    budget_s: float, turns: Sequence[Turn], ordered: Sequence[QaRow], ask: Ask, context: JobContext, clock: Clock
) -> int:
    path = context.dir / "budget.json"
    asked = hashlib.sha256("\n".join([f"{budget_s}", *(row.id for row in ordered)]).encode()).hexdigest()
    if path.exists() and (kept := json.loads(path.read_text()))["of"] == asked:
        return int(kept["questions"])
    first = ordered[:BATCH]
    told = _Told(context, len(first) * len(turns), clock)
    started = clock()
    # What the answers themselves took: the engine's start, which is over, takes no time of the rest.
    seconds = sum(answer.seconds for turn in turns for answer in ask(*turn, first, told.of(*turn)))
    left = max(0.0, budget_s - (clock() - started))
    fits = min(len(ordered), len(first) + int(left * len(first) / seconds)) if seconds else len(ordered)
    write_whole(path, json.dumps({"of": asked, "questions": fits}))
    return fits


class _Told:
    """Says how far all turns are together, and how long the rest will take at the rate so far.

    Args:
        context: The job.
        total: Answers wanted.
        clock: In seconds.
    """

    def __init__(self, context: JobContext, total: int, clock: Clock) -> None:
        self._context = context
        self._total = total
        self._done: dict[Turn, int] = {}
        self._found = 0  # there before this attempt: they say nothing of its rate
        self._clock = clock
        self._started = clock()

    def of(self, arm: Arm, seed: int) -> Callable[[int, int], None]:
        """What one turn tells."""

        def told(done: int, total: int) -> None:
            if (arm, seed) not in self._done:
                self._found += done
            self._done[arm, seed] = done
            figures: dict[str, float | str] = {}
            answered = sum(self._done.values())
            asked = answered - self._found
            if asked > 0:
                rate = asked / max(1e-9, self._clock() - self._started)
                figures = {"per_minute": 60.0 * rate, "left": in_words((self._total - answered) / rate)}
            self._context.progress(f"arm {arm.name}", done, total, **figures)

        return told


def in_words(span_s: float) -> str:
    """Seconds as a person says them."""
    minutes, seconds = divmod(round(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
