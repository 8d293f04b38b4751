from __future__ import annotations

import pytest

from tandem.errors import SpecError
from tandem.serving.app import read_spec, worker_bundles

ARGS = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}}


def test_wrong_arguments_are_named():
    with pytest.raises(SpecError, match=r"args\.retriever\.top_k"):
        read_spec({**ARGS, "retriever": {"collection": "docs", "top_k": 0}})


@pytest.mark.parametrize(
    ("gpus", "bundles"),
    [
        (0.0, [{"CPU": 4.0}]),
        (0.25, [{"CPU": 4.0, "GPU": 0.25}]),
        (1.0, [{"CPU": 4.0, "GPU": 1.0}]),
        (2.0, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]),
    ],
)
def test_each_of_several_gpus_has_a_worker(gpus, bundles):
    assert worker_bundles(4.0, gpus) == bundles
