from __future__ import annotations

import pytest
from pydantic import ValidationError

from tandem.specs.rag import RagSpec

ARGS = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}}


def adapters(*names: str) -> list[dict]:
    return [{"name": name, "uri": "artifact:a"} for name in names]


@pytest.mark.parametrize("names", [("one", "one"), ("app",), ("base",)])
def test_every_model_has_a_name_of_its_own(names):
    with pytest.raises(ValidationError, match="already names another model"):
        RagSpec.model_validate({**ARGS, "adapters": adapters(*names)})


def test_the_default_model_is_one_of_them():
    with pytest.raises(ValidationError, match="'two' is none of base, one"):
        RagSpec.model_validate({**ARGS, "adapters": adapters("one"), "default_model": "two"})
    assert RagSpec.model_validate({**ARGS, "default_model": "base"}).default_model == "base"


def test_replicas_are_in_order():
    with pytest.raises(ValidationError, match="min_replicas 3 is above max_replicas 2"):
        RagSpec.model_validate({**ARGS, "autoscaling": {"llm": {"min_replicas": 3, "max_replicas": 2}}})
    with pytest.raises(ValidationError, match=r"ingress\.min_replicas must be at least 1"):
        RagSpec.model_validate({**ARGS, "autoscaling": {"ingress": {"min_replicas": 0}}})


def test_gpus_are_a_share_of_one_or_whole_and_the_engine_uses_them():
    for gpus in (0, 0.5, 1, 2, None):
        assert RagSpec.model_validate({**ARGS, "gpus_per_replica": gpus}).gpus_per_replica == gpus
    with pytest.raises(ValidationError, match=r"1\.5 is neither a share of one GPU nor a number of whole ones"):
        RagSpec.model_validate({**ARGS, "gpus_per_replica": 1.5})
    with pytest.raises(ValidationError, match="only vLLM divides a model over several GPUs"):
        RagSpec.model_validate({**ARGS, "gpus_per_replica": 2, "engine": {"name": "transformers"}})
