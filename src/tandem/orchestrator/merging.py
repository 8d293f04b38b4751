"""A deploy of a file where a promotion has changed the application since: neither undoes the other by accident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tandem.errors import ModelError, NotFoundError
from tandem.orchestrator.pins import newest, pinned, versions_in
from tandem.orchestrator.promotion import version_in
from tandem.orchestrator.releases import Release, last_file, promoted_models
from tandem.specs.rag import RagSpec

# What promotions change.
OWNED = ("model", "adapters", "default_model", "canary", "prompt")


def planned(
    application: Mapping[str, Any],
    file: RagSpec | None,
    life: Sequence[Release],
    present: RagSpec | None,
    storage: Path,
    notes: list[str],
) -> dict[str, Any]:
    """An application of a file as it is to be deployed: each artifact at one version, and what was promoted as it is.

    Args:
        application: Of the file.
        file: What it says, if it is one of ours.
        life: What it was told since it was last taken down.
        present: What it answers with now; None where Ray Serve hasn't got it.
        storage: Where artifacts are looked up.
        notes: Gets what else is to be known, a line each.

    Raises:
        NotFoundError: No job has made an artifact that it names.
    """
    models = promoted_models(life)
    # A head that was lost has taken what Serve had along.
    there = present or (life[-1].read() if life else None)
    if file is None or there is None or not models:
        return dict(pinned(dict(application), storage, {}))
    merged, kept, lost = merged_with(file, last_file(life), there)
    versions = {model: id for model, id in versions_in(there).items() if model in models}
    spec = pinned(merged.canonical(), storage, versions)
    name = application["name"]
    for model, id in versions_in(RagSpec.model_validate(spec)).items():
        if versions.get(model) == id and (new := _newer(storage, model, id)):
            notes.append(f"{name}: {model} stays {id}, as promoted; the newest is {new}: `tandem promote {model}`")
    if kept:
        notes.append(f"{name}: as promoted, since the file says what it said before: {', '.join(kept)}")
    if lost:
        notes.append(f"{name}: the file ends what was promoted: {', '.join(lost)}")
    return {**application, "args": spec}


def _newer(storage: Path, model: str, id: str) -> str | None:
    try:
        found = newest(storage, model)
    except (NotFoundError, ModelError):
        return None  # where it is gone or broken the one that runs is all there is
    return None if found == id else found


def merged_with(file: RagSpec, earlier: RagSpec | None, present: RagSpec) -> tuple[RagSpec, list[str], list[str]]:
    """Three ways, as `kubectl apply` does it: where the file says what it said before, what is there now stays.

    Args:
        file: What the file says; an ``artifact:NAME`` in it names no version.
        earlier: What it said when it was deployed last; None where nobody wrote that down: then as now.
        present: What the application answers with now.

    Returns:
        What to deploy; the places that stay as they were promoted, and those where the file ends that.
    """
    says, said = file.canonical(), (earlier or file).canonical()
    there = present.canonical()
    # Of a version that nobody names the file has no opinion.
    differs = [place for place in OWNED if _without_versions(there[place], says[place]) != says[place]]
    kept = [place for place in differs if says[place] == said[place]]
    try:
        whole = RagSpec.model_validate({**says, **{place: there[place] for place in kept}})
    except ValidationError:
        # What stays doesn't go with what the file changes: a default without its adapter.
        return file, [], differs
    return whole, kept, [place for place in differs if place not in kept]


def _without_versions(there: Any, says: Any) -> Any:
    """What is there, in the words of the file: without a version where the file names none."""
    if isinstance(there, str) and isinstance(says, str):
        named = version_in(there)
        return says if named and says == f"artifact:{named[0]}" else there
    if isinstance(there, list | tuple) and isinstance(says, list | tuple) and len(there) == len(says):
        return [_without_versions(a, b) for a, b in zip(there, says, strict=True)]
    if isinstance(there, Mapping) and isinstance(says, Mapping):
        return {key: _without_versions(value, says.get(key)) for key, value in there.items()}
    return there
