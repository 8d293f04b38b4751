"""What is known of a version of a model: that it is there, and how it stands to what answers now."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem.artifacts.manifest import Manifest, latest, read_manifest
from tandem.artifacts.uris import cached
from tandem.errors import ModelError, TandemError
from tandem.orchestrator.deploying.served import BASE, answering, version_in
from tandem.orchestrator.promotion.comparisons import UNTUNED, Comparison, manifests
from tandem.orchestrator.promotion.rules import Against, Standing, Version
from tandem.specs.promote import ARTIFACT_SCHEME
from tandem.specs.rag import RagSpec

logger = logging.getLogger(__name__)


def versions(storage: Path) -> list[Version]:
    """What finetune jobs for generation made, by model's name, the newest first; what can't be read is passed over."""
    found = [
        _version(manifest, folder)
        for manifest, folder in manifests(storage)
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


def _version(manifest: Manifest, folder: Path) -> Version:
    kind = "adapter" if manifest.type == "adapter" else "model"
    return Version(manifest.name, manifest.id, kind, manifest.created_at, folder, manifest.meta)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Models:
    """Whether two URIs name the same model.

    Attributes:
        storage: Where `artifact:` URIs are looked up.
    """

    storage: Path

    def same(self, a: str, b: str) -> bool:
        """Whether they do, as far as can be told without fetching anything; not if one is whatever is newest."""
        if any(uri.startswith(ARTIFACT_SCHEME) for uri in (a, b)):
            return a == b and version_in(a) is not None
        return a == b or (self._path(a) is not None and self._path(a) == self._path(b))

    def may_be_same(self, a: str, b: str) -> bool:
        """The same, but whatever is newest may be any version of that name."""
        names = [uri.partition("@")[0] for uri in (a, b)]
        unpinned = any(uri.startswith(ARTIFACT_SCHEME) and "@" not in uri for uri in (a, b))
        return self.same(a, b) or (unpinned and names[0] == names[1])

    def _path(self, uri: str) -> Path | None:
        try:
            return cached(uri, storage=self.storage)
        except TandemError:
            return None


def newest_standing(version: Version, known: Sequence[Comparison]) -> Standing | None:
    """What the newest comparison says that asked a version with passages, whoever it was compared with."""
    for comparison in known:
        arm = comparison.arm_of(version.uri, version.id, whole=version.kind == "model")
        if arm is not None:
            return _standing(comparison, arm, None)
    return None


def standing_in(
    version: Version, before: RagSpec, after: RagSpec, known: Sequence[Comparison], storage: Path
) -> Standing | None:
    """What is known of a version beside what answers in an application now: the comparison with the most questions.

    Args:
        version: Which.
        before: The application now.
        after: The application if it takes over.
        known: All comparisons, the newest first.
        storage: Where models are looked up.

    Returns:
        Where none asked both as the application asks: the newest that asked the version, with what doesn't fit.
    """
    whole = version.kind == "model"
    models = Models(storage)
    unfit: Standing | None = None
    fit: list[tuple[Comparison, str]] = []
    for comparison in known:
        arm = comparison.arm_of(version.uri, version.id, whole=whole)
        if arm is None:
            continue
        faults = _faults(comparison, after, models, whole=whole)
        if not faults:
            fit.append((comparison, arm))
        elif unfit is None:
            unfit = _standing(comparison, arm, None, faults)
    found = list(_held_against(fit, before, after, known, models, whole=whole))
    if found:
        # As many passages as the application shows go first; of as many questions the newest: `known` is in that order.
        wanted = after.retriever.top_k
        comparison, arm, against = max(found, key=lambda each: (each[0].report.top_k == wanted, each[2].n))
        return _standing(comparison, arm, against)
    return _standing(*fit[0], None) if fit else unfit


def _held_against(
    fit: Sequence[tuple[Comparison, str]],
    before: RagSpec,
    after: RagSpec,
    known: Sequence[Comparison],
    models: Models,
    *,
    whole: bool,
) -> Iterator[tuple[Comparison, str, Against]]:
    """Every paired test of the version and what answers now, on questions asked as the application asks."""
    uri, id = answering(before, whole=whole)
    what = id or uri or BASE
    for comparison, arm in fit:
        other = UNTUNED if uri is None else comparison.arm_of(uri, id, whole=whole)
        if other in comparison.report.arms and other != arm:
            found = _paired(comparison, arm, other, what)
            if found is not None:
                yield comparison, arm, found
        if uri is None:
            continue
        # What is live was asked in another comparison, which is as good where it asked the same.
        for earlier in known:
            apart = earlier is comparison or earlier.arm_of(uri, id, whole=whole) != arm
            if apart or _faults(earlier, after, models, whole=whole) or not _same_questions(earlier, comparison):
                continue
            found = _across(earlier, comparison, arm, what)
            if found is not None:
                yield comparison, arm, found


def _faults(comparison: Comparison, spec: RagSpec, models: Models, *, whole: bool) -> tuple[str, ...]:
    """In what a comparison asked otherwise than an application would, so that it says nothing of that."""
    report = comparison.report
    faults = []
    if not whole and not models.same(report.lineage.model, spec.model):
        faults.append(f"{report.id} asked another base model, {report.lineage.model}")
    if report.lineage.index.collection != spec.retriever.collection:
        faults.append(
            f"{report.id} searched {report.lineage.index.collection}, the application searches "
            f"{spec.retriever.collection}"
        )
    if report.lineage.prompt != spec.prompt:
        faults.append(f"{report.id} asked with another prompt than the application would")
    return tuple(faults)


def _same_questions(a: Comparison, b: Comparison) -> bool:
    return a.report.dataset.split_sha256 == b.report.dataset.split_sha256 and a.report.top_k == b.report.top_k


def _standing(comparison: Comparison, arm: str, against: Against | None, faults: tuple[str, ...] = ()) -> Standing:
    report = comparison.report
    found, metric = report.arms[arm], report.verdict.metric
    return Standing(
        report=report.id,
        arm=arm,
        metric=metric,
        value=found.metrics.get(metric),
        n=found.n,
        adapters=found.seeds.n if found.seeds else 1,
        snapshot=report.lineage.index.id,
        top_k=report.top_k,
        margin=report.verdict.margin,
        faults=faults,
        against=against,
    )


def _paired(comparison: Comparison, arm: str, other: str, what: str) -> Against | None:
    report = comparison.report
    for pair in report.pairs:
        if pair.metric == report.verdict.metric and {pair.a, pair.b} == {arm, other}:
            sign = 1 if pair.a == arm else -1
            low, high = sorted(sign * end for end in pair.ci95)
            return Against(what, report.id, sign * pair.diff, (low, high), report.arms[arm].n)
    return None


def _across(earlier: Comparison, later: Comparison, arm: str, what: str) -> Against | None:
    """The same arm in two comparisons of the same questions."""
    from tandem.evaluation.report.side_by_side import ITEMS, Side, paired_tests

    try:
        before, after = (Side(each.whole(), each.folder / ITEMS) for each in (earlier, later))
        test = paired_tests(before, after, [arm], later.report.verdict.metric)[arm]
    except (TandemError, OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        logger.warning("%s and %s can't be set side by side: %s", earlier.folder, later.folder, error)
        return None
    low, high = test.ci95
    return Against(what, later.report.id, test.diff, (low, high), test.n)
