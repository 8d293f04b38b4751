from __future__ import annotations

import pytest

from tandem.errors import SpecError
from tandem.serving.app import read_spec, scaling

ARGS = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}}


def test_wrong_arguments_are_named():
    with pytest.raises(SpecError, match=r"args\.retriever\.top_k"):
        read_spec({**ARGS, "retriever": {"collection": "docs", "top_k": 0}})


def test_replicas_are_fixed_or_between_two_numbers():
    assert scaling(read_spec(ARGS)) == {"num_replicas": 1}
    auto = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 4}
    assert scaling(read_spec({**ARGS, "autoscaling": auto})) == {"autoscaling_config": auto}
