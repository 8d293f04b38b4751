from __future__ import annotations

import random
from collections import Counter

import pytest

from tandem.specs.finetune import ScheduleSpec
from tandem.training.schedule import learning_rate_factor, micro_batches, plan_batches, share, total_steps


def factors(steps: int, **fields: object) -> list[float]:
    schedule = ScheduleSpec.model_validate(fields)
    return [learning_rate_factor(step, steps=steps, schedule=schedule) for step in range(steps)]


@pytest.mark.parametrize(
    ("rows", "fields", "steps"),
    [
        (100, {"epochs": 1, "batch_size": 8}, 13),
        (100, {"epochs": 2, "batch_size": 8}, 25),
        (100, {"epochs": 2, "batch_size": 8, "max_steps": 5}, 5),
        (100, {"epochs": 1, "batch_size": 8, "max_steps": 500}, 13),
        (1, {"epochs": 0.5, "batch_size": 8}, 1),
    ],
)
def test_steps_are_those_of_the_epochs_or_fewer(rows: int, fields: dict[str, object], steps: int) -> None:
    assert total_steps(rows, ScheduleSpec.model_validate(fields)) == steps


@pytest.mark.parametrize("scheduler", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_never_rises_again(scheduler: str) -> None:
    values = factors(40, scheduler=scheduler, warmup=0.25)
    assert values[:10] == sorted(set(values[:10]))
    assert values[10] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True)
    assert min(values) > 0


def test_cosine_is_at_half_in_the_middle_and_near_zero_at_the_end() -> None:
    values = factors(100, scheduler="cosine", warmup=0)
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.5)
    assert values[-1] < 0.001


def test_linear_falls_in_equal_steps_and_constant_stays() -> None:
    assert factors(4, scheduler="linear", warmup=0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert factors(4, scheduler="constant", warmup=0) == [1.0] * 4


LENGTHS = [(n * 37) % 101 + 5 for n in range(50)]


@pytest.mark.parametrize("by_length", [False, True])
def test_every_row_comes_once_before_any_comes_again(by_length: bool) -> None:
    batches = list(plan_batches(LENGTHS, steps=25, batch_size=4, seed=0, by_length=by_length))  # exactly two epochs
    order = [index for batch in batches for index in batch]
    assert Counter(order) == Counter(list(range(50)) * 2)
    # Batch 12 straddles the border of the epochs, so look at the twelve before it.
    assert max(Counter(order[:48]).values()) == 1


def test_rows_of_similar_length_share_a_batch_where_that_is_asked_for() -> None:
    def padding(batches: list[list[int]]) -> int:
        return sum(max(LENGTHS[i] for i in batch) * len(batch) - sum(LENGTHS[i] for i in batch) for batch in batches)

    grouped = list(plan_batches(LENGTHS, steps=12, batch_size=4, seed=0, by_length=True))
    as_they_come = [list(range(at, at + 4)) for at in range(0, 48, 4)]
    assert padding(grouped) < padding(as_they_come) / 2


@pytest.mark.parametrize("by_length", [False, True])
def test_the_plan_of_a_longer_run_begins_with_that_of_a_shorter(by_length: bool) -> None:
    short, long = (
        list(plan_batches(LENGTHS, steps=steps, batch_size=4, seed=3, by_length=by_length)) for steps in (10, 30)
    )
    assert long[:10] == short


@pytest.mark.parametrize("by_length", [False, True])
def test_whoever_has_done_steps_goes_on_with_the_next(by_length: bool) -> None:
    whole = list(plan_batches(LENGTHS, steps=40, batch_size=4, seed=3, by_length=by_length))
    assert list(plan_batches(LENGTHS, steps=40, batch_size=4, seed=3, by_length=by_length, done=27)) == whole[27:]


@pytest.mark.parametrize(
    ("by_length", "batches"),
    [
        (False, [[3, 2, 0], [5, 6, 4], [3, 1, 2], [1, 0, 6], [5, 0, 4]]),
        (True, [[2, 0, 6], [3, 5, 1], [2, 4, 4], [3, 0, 6], [5, 1, 2]]),
    ],
)
def test_the_order_is_that_of_runs_which_began_with_earlier_versions(by_length: bool, batches: list[list[int]]) -> None:
    lengths = [7, 3, 5, 1, 9, 2, 8]
    assert list(plan_batches(lengths, steps=5, batch_size=3, seed=3, by_length=by_length)) == batches


def test_a_plan_costs_what_is_asked_of_it() -> None:
    assert len(next(plan_batches(LENGTHS, steps=10**15, batch_size=4, seed=0))) == 4


def test_another_seed_is_another_order() -> None:
    first, second = (list(plan_batches(LENGTHS, steps=10, batch_size=4, seed=seed)) for seed in (0, 1))
    assert first != second


def test_fewer_rows_than_a_batch_come_more_than_once() -> None:
    batches = list(plan_batches([3, 4, 5], steps=2, batch_size=8, seed=0))
    assert [len(batch) for batch in batches] == [8, 8]
    assert set(batches[0]) == {0, 1, 2}


BATCH = list(range(16))


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_workers_shares_make_up_the_batch(workers: int, packing: bool) -> None:
    micros = micro_batches(BATCH, LENGTHS, micro_batch_size=2, packing=packing)
    parts = [share(micros, rank=rank, workers=workers) for rank in range(workers)]
    assert sorted(index for part in parts for micro in part for index in micro) == BATCH
    assert {len(part) for part in parts} == {8 // workers}  # DeepSpeed counts them: all alike
    assert all(micro for part in parts for micro in part)


def tokens(micro: list[int], lengths: list[int]) -> int:
    return sum(lengths[index] for index in micro)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_packed_passes_are_even_and_never_larger_than_the_longest_rows(size: int, seed: int) -> None:
    chance = random.Random(seed)
    lengths = [int(chance.lognormvariate(4, 1)) + 2 for _ in range(16)]
    packed = micro_batches(BATCH, lengths, micro_batch_size=size, packing=True)
    padded = micro_batches(BATCH, lengths, micro_batch_size=size, packing=False)
    longest = sorted(lengths)[-size:]
    largest = max(tokens(micro, lengths) for micro in packed)
    assert len(packed) == len(padded) == 16 // size
    assert largest <= sum(longest)
    assert largest <= max(tokens(micro, lengths) for micro in padded)
    assert [tokens(micro, lengths) for micro in packed] == sorted(tokens(micro, lengths) for micro in packed)


def test_padded_passes_are_of_neighbours_in_length() -> None:
    assert micro_batches([0, 1, 2, 3], [9, 2, 8, 3], micro_batch_size=2, packing=False) == [[1, 3], [2, 0]]


@pytest.mark.parametrize("packing", [False, True])
def test_a_rest_of_rows_makes_a_pass_too(packing: bool) -> None:
    micros = micro_batches([0, 1, 2, 3, 4], LENGTHS, micro_batch_size=2, packing=packing)
    assert len(micros) == 3
    assert sorted(index for micro in micros for index in micro) == [0, 1, 2, 3, 4]
    assert micro_batches([], LENGTHS, micro_batch_size=2, packing=packing) == []
