"""What comparisons have found out of models, as far as a promotion asks: read once, and only what is sound."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tandem.artifacts.manifest import MANIFEST, Manifest, read_manifest
from tandem.errors import ModelError
from tandem.specs.base import PromptSpec
from tandem.specs.compare import TUNED

logger = logging.getLogger(__name__)

REPORT = "report.json"
# As an endpoint asks: with passages. Of a model that was trained with them and compared both ways, that is `raft`.
SERVED_ARMS = ("raft", "tuned_rag")
UNTUNED = "rag"
READ_AT_MOST = 4096


class _Part(BaseModel):
    # A later version's report may say more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Adapter(_Part):
    uri: str
    id: str | None = None


class _Index(_Part):
    collection: str | None = None
    id: str | None = None


class _Lineage(_Part):
    model: str
    model_id: str | None = None
    trained: dict[str, tuple[_Adapter, ...]] = {}
    index: _Index = _Index()
    prompt: PromptSpec


class _Seeds(_Part):
    n: int = 1


class _Arm(_Part):
    n: int
    metrics: dict[str, float | None]
    seeds: _Seeds | None = None


class _Pair(_Part):
    a: str
    b: str
    metric: str
    diff: float
    ci95: tuple[float, float]


class _Verdict(_Part):
    metric: str
    margin: float


class _Dataset(_Part):
    split_sha256: str


class _Report(_Part):
    id: str
    task: str
    top_k: int
    dataset: _Dataset
    arms: dict[str, _Arm]
    pairs: tuple[_Pair, ...]
    verdict: _Verdict
    lineage: _Lineage


@dataclass(frozen=True)
class Comparison:
    """A comparison of answers.

    Attributes:
        report: What it found.
        folder: Of its files.
    """

    report: _Report
    folder: Path

    def whole(self) -> dict[str, Any]:
        """The report with all that is in it."""
        data: dict[str, Any] = json.loads((self.folder / REPORT).read_text())
        return data

    def arm_of(self, uri: str, id: str | None, *, whole: bool) -> str | None:
        """The arm that answered with a model and passages.

        Args:
            uri: Of the model or adapter.
            id: Of the job that made it; None where it is none of ours.
            whole: A model, and no adapter over one.
        """
        lineage = self.report.lineage
        if whole:
            asked = lineage.model_id == id if id and lineage.model_id else lineage.model == uri
            return UNTUNED if asked and UNTUNED in self.report.arms else None
        for arm in SERVED_ARMS:
            asked_of = lineage.trained.get(TUNED[arm], ()) if arm in self.report.arms else ()
            if any(each.id == id if id else each.uri == uri for each in asked_of):
                return arm
        return None


def comparisons(storage: Path) -> list[Comparison]:
    """All comparisons of answers, the newest first; what can't be read is passed over."""
    found = [
        (manifest.created_at, Comparison(report, folder))
        for manifest, folder in manifests(storage)
        if manifest.type == "report" and (report := _read(folder / REPORT)) is not None and report.task == "generation"
    ]
    return [comparison for _, comparison in sorted(found, key=lambda each: each[0], reverse=True)]


def manifests(storage: Path) -> Iterator[tuple[Manifest, Path]]:
    """Every complete artifact, and its folder."""
    for path in (storage / "artifacts").glob(f"*/*/{MANIFEST}"):
        try:
            yield read_manifest(path.parent), path.parent
        except ModelError as error:
            logger.warning("passed over: %s", error)


def _read(path: Path) -> _Report | None:
    try:
        return _read_once(path, path.stat().st_mtime_ns)
    except (OSError, ValidationError) as error:
        logger.warning("passed over: %s: %s", path, str(error).splitlines()[0])
        return None


@lru_cache(READ_AT_MOST)
def _read_once(path: Path, _: int) -> _Report:
    """The report as it was at that time of its last change."""
    return _Report.model_validate_json(path.read_bytes())
