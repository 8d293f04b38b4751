"""A deploy of a file where a promotion has changed the application since: neither undoes the other by accident."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tandem.errors import ModelError, NotFoundError
from tandem.orchestrator.deploying.in_place import without_taken_over
from tandem.orchestrator.deploying.pins import newest, pinned
from tandem.orchestrator.deploying.releases import Release, last_file, promoted_models, promoted_places
from tandem.orchestrator.deploying.served import version_in, version_of
from tandem.specs.promote import ARTIFACT_SCHEME
from tandem.specs.rag import RagSpec

# What promotions change.
OWNED = ("model", "adapters", "default_model", "canary", "prompt")


def planned(
    application: Mapping[str, Any],
    file: RagSpec | None,
    life: Sequence[Release],
    present: RagSpec | None,
    storage: Path,
) -> tuple[dict[str, Any], list[str]]:
    """An application of a file as it is to be deployed: each artifact at one version, and what was promoted as it is.

    Args:
        application: Of the file.
        file: What it says, if it is one of ours.
        life: What it was told since it was last taken down.
        present: What it answers with now; None where Ray Serve hasn't got it.
        storage: Where artifacts are looked up.

    Returns:
        It, and what else is to be known, a line each.

    Raises:
        NotFoundError: No job has made an artifact that it names.
    """
    models = promoted_models(life)
    # A head that was lost has taken what Serve had along.
    there = present or (life[-1].read() if life else None)
    if file is None or there is None or not models:
        return pinned(dict(application), storage), []
    merged, kept, lost = merged_with(file, last_file(life), there, models, promoted_places(life))
    spec = pinned(merged.canonical(), storage)
    name, notes = application["name"], []
    for model in sorted(models):
        id = version_of(RagSpec.model_validate(spec), model)
        if id is not None and id == version_of(there, model) and (new := _newer(storage, model, id)):
            notes.append(f"{name}: {model} stays {id}, as promoted; the newest is {new}: `tandem promote {model}`")
    if kept:
        notes.append(f"{name}: as promoted, since the file says what it said before: {', '.join(kept)}")
    if lost:
        notes.append(f"{name}: the file ends what was promoted: {', '.join(lost)}")
    # What its `user_config` says stands in the spec.
    return {**without_taken_over(application), "args": spec}, notes


def merged_with(
    file: RagSpec, earlier: RagSpec | None, present: RagSpec, models: Collection[str], touched: Collection[str]
) -> tuple[RagSpec, list[str], list[str]]:
    """Three ways, as `kubectl apply` does it: where the file says what it said before, what is there now stays.

    Args:
        file: What the file says; an ``artifact:NAME`` in it names no version.
        earlier: What it said when it was deployed last; None where nobody wrote that down: then as now.
        present: What the application answers with now.
        models: Those of which somebody decided which version answers.
        touched: The places that were changed by that.

    Returns:
        What to deploy; the places that stay as they were promoted, and those where the file ends that.
    """
    says, said, there = file.canonical(), (earlier or file).canonical(), present.canonical()
    filled = _filled(says, there, models)
    keeps = [place for place in OWNED if place in touched and says[place] == said[place]]
    whole = {**filled, **{place: there[place] for place in keeps}}
    if "adapters" in touched:
        whole["adapters"] = _by_name(filled, says, said, there)
    if whole["model"] != there["model"] or (whole["model"] != filled["model"] and says["adapters"] != said["adapters"]):
        # Adapters are of use over the base model that they were trained with, and no other one.
        whole = filled
    # What stays may not go with what the file changes: a canary, or a default, whose adapter is gone.
    for dropped in ((), ("canary",), ("canary", "default_model"), OWNED):
        whole |= {place: filled[place] for place in dropped}
        with suppress(ValidationError):
            found = RagSpec.model_validate(whole)
            break
    else:
        found, whole = file, filled
    kept = [place for place in OWNED if whole[place] != filled[place]]
    return found, kept, [place for place in OWNED if place in touched and whole[place] != there[place]]


def _filled(says: Mapping[str, Any], there: Mapping[str, Any], models: Collection[str]) -> dict[str, Any]:
    """What a file says, with the versions that are there where it names none: of the adapter of that name first."""
    by_name = {each["name"]: each["uri"] for each in there["adapters"]}
    uris = [*by_name.values(), there["model"]]

    def fill(uri: str, own: str | None) -> str:
        model = uri.removeprefix(ARTIFACT_SCHEME)
        if uri == model or "@" in model or model not in models:
            return uri
        of_it = [each for each in (own, *uris) if each and (version_in(each) or ("",))[0] == model]
        return of_it[0] if of_it else uri

    adapters = [{**each, "uri": fill(each["uri"], by_name.get(each["name"]))} for each in says["adapters"]]
    return {**says, "model": fill(says["model"], there["model"]), "adapters": adapters}


def _by_name(
    filled: Mapping[str, Any], says: Mapping[str, Any], said: Mapping[str, Any], there: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The adapters, each three ways by itself; those that are there first."""
    by_name = [{each["name"]: each for each in side["adapters"]} for side in (filled, says, said, there)]
    merged = []
    for name in dict.fromkeys((*by_name[3], *by_name[0])):
        whole, now, before, present = (side.get(name) for side in by_name)
        taken = present if now == before else whole
        merged += [taken] if taken is not None else []
    return merged


def _newer(storage: Path, model: str, id: str) -> str | None:
    try:
        found = newest(storage, model)
    except (NotFoundError, ModelError):
        return None  # where it is gone or broken the one that runs is all there is
    return None if found == id else found
