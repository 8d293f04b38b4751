"""What a job may bring along: nothing that breaks its cluster's tokens, and no secret in a record."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tandem.specs.runtime import RuntimeSpec


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("env", {"RAY_ADDRESS": "x"}, "say which cluster"),
        ("env", {"RAY_AUTH_TOKEN_PATH": None}, "say which cluster"),
        ("env", {"TANDEM_STORAGE": "x"}, "say which cluster"),
        ("env", {"HF_TOKEN": "hf_abc"}, "`--env HF_TOKEN`"),
        ("env", {"AWS_SECRET_ACCESS_KEY": "x"}, "looks like a secret"),
        ("env", {"OPENAI_API_KEY": "x"}, "looks like a secret"),
        ("env", {"INDEX_URL": "https://me:pw@host/simple"}, "looks like a secret"),
        ("env", {"A": "\0"}, "null byte"),
        ("env", {"A-B": "x"}, "match pattern"),
        ("env", {"A": True}, "valid string"),
        ("pip", ["--index-url https://me:pw@host/simple"], "an address with a password"),
        ("pip", [""], "at least 1"),
        ("working_dir", "https://me:pw@host/a.zip", "an address with a password"),
    ],
)
def test_what_is_refused(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RuntimeSpec.model_validate({field: value})


def test_what_is_taken() -> None:
    env = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": 2, "HF_TOKEN": None, "MAX_TOKENS": 1.5}
    spec = RuntimeSpec.model_validate({"env": env, "pip": ["nltk==3.9", "--no-deps"], "working_dir": "s3://b/a.zip"})
    assert spec.env == {**env, "OMP_NUM_THREADS": "2", "MAX_TOKENS": "1.5"}
    assert spec.secret_names == ["HF_TOKEN"]
