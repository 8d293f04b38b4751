from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tandem.errors import InputError
from tandem.serving.api_errors import ApiError
from tandem.serving.api_keys import KeyRing


def test_a_new_key_counts_without_a_restart(keys_file: Path):
    keys = KeyRing(keys_file)
    with pytest.raises(ApiError):
        keys.caller("Bearer new")
    keys_file.write_text(json.dumps({hashlib.sha256(b"new").hexdigest(): "acme"}))
    os.utime(keys_file, ns=(1, 1))
    assert keys.caller("Bearer new").tenant == "acme"
    with pytest.raises(ApiError):
        keys.caller("Bearer key-of-all")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_breaks_meanwhile_locks_nobody_out_and_lets_nobody_in(keys_file: Path, text, caplog):
    keys = KeyRing(keys_file)
    keys_file.write_text(text)
    os.utime(keys_file, ns=(1, 1))
    for _ in range(2):
        assert keys.caller("Bearer key-of-all").tenant is None
        with pytest.raises(ApiError):
            keys.caller("Bearer new")
    assert caplog.text.count("the keys that were read before go on counting") == 1


def test_a_hash_is_no_key(keys_file: Path):
    digest = next(iter(json.loads(keys_file.read_text())))
    with pytest.raises(ApiError):
        KeyRing(keys_file).caller(f"Bearer {digest}")


@pytest.mark.parametrize("text", [None, "", "[]", '{"ab": 3}'])
def test_without_a_proper_file_there_is_no_endpoint(tmp_path: Path, text):
    path = tmp_path / "keys.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"keys\.json"):
        KeyRing(path)


def test_a_key_may_have_limits_of_its_own(tmp_path: Path):
    path = tmp_path / "keys.json"
    digest = hashlib.sha256(b"k").hexdigest()
    path.write_text(json.dumps({digest: {"tenant": "acme", "requests_per_minute": 3, "tokens_per_minute": 9}}))
    caller = KeyRing(path).caller("Bearer k")
    assert (caller.tenant, caller.key, caller.requests_per_minute, caller.tokens_per_minute) == ("acme", digest, 3, 9)


@pytest.mark.parametrize(
    "entry", [{}, {"requests_per_minute": 3}, {"tenant": "a", "tokens_per_minute": 0}, {"tenant": 1}]
)
def test_an_entry_that_leaves_the_tenant_open_or_a_limit_unclear_is_refused(tmp_path: Path, entry):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"ab": entry}))
    with pytest.raises(InputError, match="not an object"):
        KeyRing(path)
