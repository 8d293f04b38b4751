"""Which versions of which models an endpoint has, and what answers in it."""

from __future__ import annotations

import re

from tandem.specs.adapters import AdapterSpec
from tandem.specs.rag import RagSpec

BASE = "the base model"
_ARTIFACT = re.compile(r"artifact:(?P<name>[^@]+)@(?P<id>.+)")


def version_in(uri: str) -> tuple[str, str] | None:
    """A model's name and version, if a URI names both."""
    found = _ARTIFACT.fullmatch(uri)
    return (found["name"], found["id"]) if found else None


def is_version_of(uri: str, model: str) -> bool:
    """Whether a URI names a version of a model."""
    named = version_in(uri)
    return named is not None and named[0] == model


def live_in(spec: RagSpec, model: str) -> AdapterSpec | None:
    """The adapter by which an application has a model, its canary aside; of several the one that is the default."""
    canary = spec.canary.model if spec.canary else None
    found = [each for each in spec.adapters if each.name != canary and is_version_of(each.uri, model)]
    return next((each for each in found if each.name == spec.default_model), next(iter(found), None))


def canary_in(spec: RagSpec, model: str) -> AdapterSpec | None:
    """The adapter by which an application tries a version of a model."""
    canary = spec.canary.model if spec.canary else None
    return next((each for each in spec.adapters if each.name == canary and is_version_of(each.uri, model)), None)


def tried_of(spec: RagSpec, model: str) -> str | None:
    """The version of a model that is being tried in an application."""
    tried = canary_in(spec, model)
    named = version_in(tried.uri) if tried else None
    return named[1] if named else None


def serves(spec: RagSpec, model: str) -> bool:
    """Whether an application has a version of a model."""
    return any(is_version_of(uri, model) for uri in (spec.model, *(each.uri for each in spec.adapters)))


def version_of(spec: RagSpec, model: str) -> str | None:
    """The version that a model stands for in an application, its canary aside."""
    live = live_in(spec, model)
    named = version_in(live.uri if live else spec.model)
    return named[1] if named and named[0] == model else None


def answering(spec: RagSpec, *, whole: bool) -> tuple[str | None, str | None]:
    """URI and version of what answers what is asked of the application's own name; None: the base model; none of ours.

    Args:
        spec: The application.
        whole: Of models alone: the base model itself.
    """
    uri = spec.model if whole else default_uri(spec)
    named = version_in(uri) if uri else None
    return uri, named[1] if named else None


def default_uri(spec: RagSpec) -> str | None:
    """The URI of the adapter that answers what is asked of the application's own name; None: the base model does."""
    return next((each.uri for each in spec.adapters if each.name == spec.default_model), None)


def in_words(spec: RagSpec) -> str:
    """What answers what is asked of the application's own name."""
    uri = default_uri(spec)
    if uri is None and version_in(spec.model) is None:
        return BASE
    named = version_in(uri or spec.model)
    return named[1] if named else str(uri)
