"""A job's id comes from what it is, so that the client can say it before the server has seen the job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from tandem.specs.base import identity


def job_id(kind: str, name: str, spec: Mapping[str, Any]) -> str:
    """``NAME-`` and the first 8 hex digits of the SHA-256 of kind and canonical spec, without how it is queued."""
    text = json.dumps({"kind": kind, "spec": identity(spec)}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def again_id(identifier: str, taken: Collection[str]) -> str:
    """The first free one of ``ID-2``, ``ID-3``, …"""
    number = 2
    while f"{identifier}-{number}" in taken:
        number += 1
    return f"{identifier}-{number}"


def same_identity(identifier: str, first: str) -> bool:
    """Whether an id is ``ID`` or one of ``ID-2``, ``ID-3``, …: the same name and spec."""
    return identifier == first or identifier.removeprefix(f"{first}-").isdigit()
