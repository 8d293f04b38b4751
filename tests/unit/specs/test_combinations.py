"""Every cell of the table is either accepted, with a DeepSpeed configuration, or refused with its reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tandem.errors import SpecError
from tandem.specs.combinations import DIMENSIONS, REFUSALS, refusals
from tandem.specs.finetune import FinetuneSpec, OffloadSpec
from tandem.specs.loading import validate_file
from tandem.training.methods.deepspeed import Hardware, build_config, combination

Cell = dict[str, str | int]


def cells() -> Iterator[Cell]:
    for values in itertools.product(*DIMENSIONS.values()):
        yield dict(zip(DIMENSIONS, values, strict=True))


def fields(cell: Cell) -> dict[str, Any]:
    offload = {"optimizer": cell["offload_optimizer"], "param": cell["offload_param"]}
    offload |= {"nvme_path": "/scratch"} if "nvme" in offload.values() else {}
    return {
        **{"kind": "finetune", "name": "t", "model": "m", "data": {"train": "t.jsonl"}},
        **{"method": cell["method"], "task": cell["task"], "precision": cell["precision"]},
        **{"deepspeed": cell["stage"], "offload": offload, "workers": 2},
    }


def decide(cell: Cell, hardware: Hardware) -> tuple[Any, Any, str]:
    """As a job goes: the spec first, then what the cluster is found to have."""
    try:
        spec = FinetuneSpec.model_validate(fields(cell))
        return spec, build_config(spec, None, hardware), ""
    except (ValidationError, SpecError) as error:
        return None, None, str(error)


def test_every_cell_is_accepted_or_refused_before_anything_starts() -> None:
    counts = {True: 0, False: 0}
    for cell in cells():
        found = refusals(cell)
        counts[not found] += 1
        hardware = Hardware(cuda=cell["device"] == "gpu", bf16=True)
        spec, config, said = decide(cell, hardware)
        if found:
            assert any(refusal.reason in said and refusal.remedy in said for refusal in found), cell
        else:
            assert said == "", cell
            assert combination(spec, None, hardware) == cell
            # What DeepSpeed reads says the same.
            assert combination(spec, config, hardware) == cell
    assert min(counts.values()) > 50


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.reason[:30])
def test_every_refusal_is_of_cells_that_there_are_and_says_what_to_do(refusal: Any) -> None:
    assert all(set(values) <= set(DIMENSIONS[dimension]) for dimension, values in refusal.when.items())
    assert refusal.remedy
    assert refusal.source


def test_the_table_knows_every_value_that_a_spec_may_have() -> None:
    for dimension, model, name in (
        ("method", FinetuneSpec, "method"),
        ("precision", FinetuneSpec, "precision"),
        ("task", FinetuneSpec, "task"),
        ("offload_optimizer", OffloadSpec, "optimizer"),
        ("offload_param", OffloadSpec, "param"),
    ):
        assert set(get_args(model.model_fields[name].annotation)) - {"auto"} == set(DIMENSIONS[dimension])


def test_what_the_spec_alone_decides_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "kind: finetune\nname: t\nmodel: m\ndata: {train: t.jsonl}\nmethod: qlora\ndeepspeed: 3\ngpus_per_worker: 1\n"
    )
    (fault,) = validate_file(path)
    assert "zero.Init takes no quantized weights" in str(fault)
    assert "deepspeed: 2 with qlora" in str(fault)
    # Without a GPU, whatever the cluster may have: two reasons.
    (fault,) = validate_file(path, ["gpus_per_worker=0"])
    assert "qlora needs a GPU" in str(fault)
    assert "zero.Init" in str(fault)
    assert validate_file(path, ["deepspeed=2"]) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offload": {"optimizer": "nvme"}, "deepspeed": 3}, "nvme_path is needed with nvme"),
        ({"offload": {"optimizer": "cpu", "nvme_path": "/scratch"}}, "with nothing else"),
        ({"offload": {"optimizer": "cpu"}, "deepspeed": "my.json"}, "deepspeed names a JSON"),
    ],
)
def test_offload_says_all_that_it_needs_and_once(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FinetuneSpec.model_validate({"kind": "finetune", "name": "t", "model": "m", "data": {"train": "t"}, **changes})
