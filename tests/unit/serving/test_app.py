from __future__ import annotations

import pytest

from tandem.errors import SpecError
from tandem.serving.app import read_spec

ARGS = {"kind": "rag", "name": "app", "model": "m", "retriever": {"collection": "docs"}}


def test_wrong_arguments_are_named():
    with pytest.raises(SpecError, match=r"args\.retriever\.top_k"):
        read_spec({**ARGS, "retriever": {"collection": "docs", "top_k": 0}})
