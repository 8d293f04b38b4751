"""What a finetune spec refuses, and what it comes to on a given number of workers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tandem.specs import FinetuneSpec


def spec(workers: Any, **schedule: int) -> FinetuneSpec:
    return FinetuneSpec.model_validate(
        {
            "kind": "finetune",
            "name": "t",
            "model": "/m",
            "data": {"train": "/rows.jsonl"},
            "schedule": {"batch_size": 12, "micro_batch_size": 4, **schedule},
            "workers": workers,
        }
    )


def test_a_fixed_number_of_workers_is_both_the_fewest_and_the_most() -> None:
    fixed = spec(3)
    assert (fixed.min_workers, fixed.max_workers) == (3, 3)
    assert fixed.with_workers(3) is fixed


@pytest.mark.parametrize(
    ("elastic", "batch_size", "micro_batch_size"),
    [([1, 2], 12, 3), ([2, 3], 12, 2), ([1, 4], 12, 1), ([1, 4], 48, 4), ([3, 3], 12, 4)],
)
def test_elastic_workers_have_the_same_micro_batches_whatever_their_number(
    elastic: list[int], batch_size: int, micro_batch_size: int
) -> None:
    asked = spec(elastic, batch_size=batch_size)
    for workers in range(elastic[0], elastic[1] + 1):
        actual = asked.with_workers(workers)
        assert actual.workers == workers
        assert actual.schedule.batch_size == batch_size
        assert actual.schedule.micro_batch_size == micro_batch_size
        assert batch_size % (workers * micro_batch_size) == 0


@pytest.mark.parametrize("workers", [0, -1, [0, 2], [3, 2], [1, 2, 3], [2]])
def test_a_number_of_workers_that_makes_no_sense_is_refused(workers: Any) -> None:
    with pytest.raises(ValidationError, match="workers"):
        spec(workers)


def test_every_number_between_must_divide_the_batch() -> None:
    with pytest.raises(ValidationError, match="12 can't be shared out evenly over 5 workers"):
        spec([2, 6])


def test_states_on_nvme_stay_with_their_number_of_workers() -> None:
    fields = spec([1, 2]).canonical() | {
        "deepspeed": 3,
        "gpus_per_worker": 1,
        "offload": {"optimizer": "nvme", "nvme_path": "/nvme"},
    }
    with pytest.raises(ValidationError, match="give workers as one number"):
        FinetuneSpec.model_validate(fields)
    FinetuneSpec.model_validate(fields | {"workers": 3})


def test_the_canonical_form_of_elastic_workers_can_be_read_again() -> None:
    elastic = spec([1, 4])
    assert elastic.canonical()["workers"] == [1, 4]
    assert FinetuneSpec.model_validate(elastic.canonical()) == elastic


def test_a_type_of_gpu_goes_with_gpus() -> None:
    fields = spec(1).canonical() | {"accelerator_type": "A100"}
    assert FinetuneSpec.model_validate(fields).accelerator_type == "A100"
    assert FinetuneSpec.model_validate(fields | {"method": "qlora"}).combination()["device"] == "gpu"
    with pytest.raises(ValidationError, match="accelerator_type: names GPUs, and gpus_per_worker is 0"):
        FinetuneSpec.model_validate(fields | {"gpus_per_worker": 0})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"data": {"train": "t.csv", "eval": "e.csv", "eval_fraction": 0.2}}, "eval says what is held out"),
        ({"task": "classification", "prompt": {"system": "Tell it."}}, "prompt: a classifier reads the text alone"),
    ],
)
def test_what_would_be_passed_over_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        FinetuneSpec.model_validate(spec(1).canonical() | fields)


def test_the_canonical_form_with_rows_of_its_own_to_evaluate_on_can_be_read_again() -> None:
    fields = {"task": "classification", "data": {"train": "t.csv", "eval": "e.csv"}}
    own = FinetuneSpec.model_validate(spec(1).canonical() | fields)
    assert FinetuneSpec.model_validate(own.canonical()) == own
