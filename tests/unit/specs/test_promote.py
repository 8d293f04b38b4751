from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tandem.specs import PipelineSpec, PromoteSpec


def promote(**fields: Any) -> PromoteSpec:
    return PromoteSpec.model_validate({"kind": "promote", "name": "up", "model": "artifact:tuned", **fields})


def test_a_model_and_its_version() -> None:
    assert promote().model_and_version == ("tuned", None)
    assert promote(model="artifact:tuned@tuned-1a2b").model_and_version == ("tuned", "tuned-1a2b")


WRONG: list[dict[str, Any]] = [
    {"model": "hf:org/model"}, {"model": "tuned"}, {"canary": 0}, {"canary": 1}, {"app": ""}, {"force": True},
]  # fmt: skip


@pytest.mark.parametrize("fields", WRONG)
def test_what_it_is_not(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        promote(**fields)


def test_in_a_pipeline_it_needs_what_made_the_model_and_hands_nothing_on() -> None:
    tune = {"kind": "finetune", "name": "tuned", "model": "m", "data": {"train": "t.jsonl"}}
    steps: dict[str, Any] = {"tune": {"spec": tune}, "up": {"spec": promote(model="${tune.artifact}").canonical()}}
    spec = PipelineSpec.model_validate({"kind": "pipeline", "name": "weekly", "steps": steps})
    assert spec.steps["up"].needs == ("tune",)
    steps["compare"] = {"spec": {"kind": "compare", "name": "c", "model": "m", "adapter": "${up.artifact}"}}
    with pytest.raises(ValidationError, match="a step of kind promote hands on nothing"):
        PipelineSpec.model_validate({"kind": "pipeline", "name": "weekly", "steps": steps})
