"""What lies in the storage folder of fine-tuned models: their versions, and what comparisons say of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.artifacts.manifest import MANIFEST, Manifest, latest, read_manifest
from tandem.errors import ModelError, TandemError
from tandem.models.loading import model_path_here
from tandem.orchestrator.promotion import default_uri, version_in
from tandem.orchestrator.promotion_rules import Against, Standing, Version
from tandem.specs.compare import TUNED
from tandem.specs.rag import RagSpec

logger = logging.getLogger(__name__)

# As an endpoint asks: with passages. Of a model that was trained with them and compared both ways, that is `raft`.
SERVED_ARMS = ("raft", "tuned_rag")
UNTUNED = "rag"
REPORT = "report.json"


@dataclass(frozen=True)
class Comparison:
    """A comparison of answers, and the folder of its files."""

    data: Mapping[str, Any]
    folder: Path


def versions(storage: Path) -> list[Version]:
    """What finetune jobs for generation made, by model's name, the newest first; what can't be read is passed over."""
    found = [
        _version(manifest, folder)
        for manifest, folder in _manifests(storage)
        if manifest.type in ("adapter", "model") and manifest.meta.get("task", "generation") == "generation"
    ]
    return sorted(sorted(found, key=lambda each: each.created_at, reverse=True), key=lambda each: each.name)


def find_version(storage: Path, name: str, id: str | None = None) -> Version:
    """One version of a model: the newest, or that with an id.

    Raises:
        NotFoundError: There is none.
        ModelError: It isn't whole, or answers no questions.
    """
    folder = latest(storage, name, id)
    manifest = read_manifest(folder)
    if manifest.type not in ("adapter", "model"):
        raise ModelError(f"an artifact of type {manifest.type!r}, not a model", where=f"artifact:{name}@{manifest.id}")
    if manifest.meta.get("task", "generation") != "generation":
        raise ModelError(
            f"made for {manifest.meta['task']}: an endpoint answers questions", where=f"artifact:{name}@{manifest.id}"
        )
    return _version(manifest, folder)


def comparisons(storage: Path) -> list[Comparison]:
    """All comparisons of answers, the newest first; what can't be read is passed over."""
    found = []
    for manifest, folder in _manifests(storage):
        if manifest.type != "report":
            continue
        try:
            data = json.loads((folder / REPORT).read_text())
        except (OSError, ValueError) as error:
            logger.warning("passed over: %s: %s", folder / REPORT, error)
            continue
        if data.get("task") == "generation":
            found.append((manifest.created_at, Comparison(data, folder)))
    return [comparison for _, comparison in sorted(found, key=lambda each: each[0], reverse=True)]


def standing_of(version: Version, spec: RagSpec | None, known: list[Comparison], storage: Path) -> Standing | None:
    """What the newest comparison says that asked a version with passages.

    Args:
        version: Which.
        spec: The application whose present answers it is held against; None: against nothing.
        known: Of `comparisons`.
        storage: Where models are looked up.
    """
    about = [(each, arm) for each in known if (arm := _arm_of(each.data, version.uri, version.kind, storage))]
    if not about:
        return None
    against = None if spec is None else _against(version, spec, about, known, storage)
    # The one that tells most: the newest that says how it stands to what is live, else the newest.
    comparison, arm = next((each for each in about if against and each[0].data["id"] == against.report), about[0])
    data = comparison.data
    metric = data["verdict"]["metric"]
    index = data["lineage"].get("index", {})
    return Standing(
        report=data["id"],
        arm=arm,
        metric=metric,
        value=data["arms"][arm]["metrics"].get(metric),
        n=data["arms"][arm]["n"],
        adapters=(data["arms"][arm]["seeds"] or {}).get("n", 1),
        collection=index.get("collection"),
        snapshot=index.get("id"),
        prompt=data["lineage"].get("prompt", {}),
        top_k=data["top_k"],
        against=against,
    )


def live_in_words(spec: RagSpec, version: Version) -> str:
    """What answers now where a version would."""
    uri = spec.model if version.kind == "model" else default_uri(spec)
    named = version_in(uri) if uri else None
    return named[1] if named else (uri or "the base model")


def _against(
    version: Version, spec: RagSpec, about: list[tuple[Comparison, str]], known: list[Comparison], storage: Path
) -> Against | None:
    uri = spec.model if version.kind == "model" else default_uri(spec)
    what = live_in_words(spec, version)
    for comparison, arm in about:
        if uri is None:
            same = _same_model(comparison.data["lineage"]["model"], spec.model, storage)
            other = UNTUNED if same and UNTUNED in comparison.data["arms"] else None
        else:
            other = _arm_of(comparison.data, uri, version.kind, storage)
        if other is not None and other != arm:
            return _paired(comparison.data, arm, other, what)
    if uri is None:
        return None
    # What is live was asked in another comparison, which is as good where it asked the same.
    for comparison, arm in about:
        for earlier in known:
            if earlier is not comparison and _arm_of(earlier.data, uri, version.kind, storage) == arm:
                found = _across(earlier, comparison, arm, what)
                if found is not None:
                    return found
    return None


def _paired(data: Mapping[str, Any], arm: str, other: str, what: str) -> Against | None:
    for pair in data["pairs"]:
        if pair["metric"] == data["verdict"]["metric"] and {pair["a"], pair["b"]} == {arm, other}:
            sign = 1 if pair["a"] == arm else -1
            low, high = sorted(sign * end for end in pair["ci95"])
            return Against(what, data["id"], sign * pair["diff"], (low, high), pair["p_adjusted"])
    return None


def _across(earlier: Comparison, later: Comparison, arm: str, what: str) -> Against | None:
    """The same arm in two comparisons of the same questions."""
    from tandem.evaluation.report.side_by_side import ITEMS, Side, paired_tests

    if earlier.data["dataset"]["split_sha256"] != later.data["dataset"]["split_sha256"]:
        return None
    before, after = (Side(each.data, each.folder / ITEMS) for each in (earlier, later))
    try:
        test = paired_tests(before, after, [arm], later.data["verdict"]["metric"])[arm]
    except (TandemError, OSError) as error:
        logger.warning("%s and %s can't be set side by side: %s", earlier.folder, later.folder, error)
        return None
    low, high = test.ci95
    return Against(what, later.data["id"], test.diff, (low, high), test.p_adjusted)


def _arm_of(data: Mapping[str, Any], uri: str, kind: str, storage: Path) -> str | None:
    """The arm of a comparison that answered with a model or adapter, and with passages."""
    if kind == "model":
        same = _same_model(data["lineage"].get("model", ""), uri, storage)
        return UNTUNED if same and UNTUNED in data["arms"] else None
    named = version_in(uri)
    trained = data["lineage"].get("trained", {})
    for arm in SERVED_ARMS:
        asked = trained.get(TUNED[arm], ()) if arm in data["arms"] else ()
        if any(each.get("id") == named[1] if named else each.get("uri") == uri for each in asked):
            return arm
    return None


def _same_model(a: str, b: str, storage: Path) -> bool:
    if a == b:
        return True
    try:
        paths = [model_path_here(uri, storage=storage) for uri in (a, b)]
    except TandemError:
        return False
    return paths[0] is not None and paths[0] == paths[1]


def _manifests(storage: Path) -> Iterator[tuple[Manifest, Path]]:
    for path in (storage / "artifacts").glob(f"*/*/{MANIFEST}"):
        try:
            yield read_manifest(path.parent), path.parent
        except ModelError as error:
            logger.warning("passed over: %s", error)


def _version(manifest: Manifest, folder: Path) -> Version:
    kind = "adapter" if manifest.type == "adapter" else "model"
    return Version(manifest.name, manifest.id, kind, manifest.created_at, folder, manifest.meta)  # type: ignore[arg-type]
