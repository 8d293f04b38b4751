"""What an application answers with once a version of a fine-tuned model takes over, is tried, or goes back.

Specs to specs: nothing is looked up or changed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from tandem.errors import ConflictError, InputError
from tandem.orchestrator.promotion_rules import Standing, Version
from tandem.specs.adapters import AdapterSpec
from tandem.specs.rag import RagSpec

NAME_LENGTH = 40
CANARY = "-canary"
_ARTIFACT = re.compile(r"artifact:(?P<name>[^@]+)@(?P<id>.+)")


@dataclass(frozen=True)
class Change:
    """What a promotion or a rollback does to an application.

    Attributes:
        app: The application.
        model: The model's name.
        version: The id that it stands for from then on; None: it is taken out.
        was: The id before; None: it wasn't there.
        share: Of a canary; None where it takes over whole.
        changed: The places of the application's spec that change.
        standing: What comparisons say; None of a rollback, or where none does.
        refusals: What spoke against it, and was overruled.
        notes: What else is to be known.
        index: The collection's snapshot at that time.
    """

    app: str
    model: str
    version: str | None
    was: str | None
    share: float | None
    changed: tuple[str, ...]
    standing: Standing | None
    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    index: str | None

    def __str__(self) -> str:
        before = self.was or "the base model"
        if self.share is not None:
            return f"{self.app}: {self.version} answers {self.share:.0%} of the conversations; {before} the rest"
        return f"{self.app}: {self.version or 'the base model'} answers; before: {before}"

    def facts(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def version_in(uri: str) -> tuple[str, str] | None:
    """A model's name and version, if a URI names both."""
    found = _ARTIFACT.fullmatch(uri)
    return (found["name"], found["id"]) if found else None


def live_in(spec: RagSpec, model: str) -> AdapterSpec | None:
    """The adapter by which an application has a model, its canary aside."""
    canary = spec.canary.model if spec.canary else None
    return next((each for each in spec.adapters if each.name != canary and _is(each.uri, model)), None)


def canary_in(spec: RagSpec, model: str) -> AdapterSpec | None:
    """The adapter by which an application tries a version of a model."""
    canary = spec.canary.model if spec.canary else None
    return next((each for each in spec.adapters if each.name == canary and _is(each.uri, model)), None)


def serves(spec: RagSpec, model: str) -> bool:
    """Whether an application has a version of a model."""
    return any(_is(uri, model) for uri in (spec.model, *(each.uri for each in spec.adapters)))


def default_uri(spec: RagSpec) -> str | None:
    """The URI of the adapter that answers what is asked of the application's own name; None: the base model does."""
    return next((each.uri for each in spec.adapters if each.name == spec.default_model), None)


def answers_itself(spec: RagSpec, model: str) -> bool | None:
    """Whether a model answers what is asked of the application's own name; None: neither it nor the base does."""
    live = live_in(spec, model)
    if _is(spec.model, model) or (live is not None and spec.default_model == live.name):
        return True
    return False if default_uri(spec) is None else None


def promoted(spec: RagSpec, version: Version, *, share: float | None = None) -> RagSpec:
    """An application once a version answers what is asked of its own name, or a share of that.

    Args:
        spec: The application now.
        version: What takes over, with the prompt that it was trained with.
        share: Of a canary, between 0 and 1; None: all, and a canary of this model ends.

    Raises:
        ConflictError: Another model's canary is on, or it is of a kind of which there can be none, or adapters of
            another base model are there.
        InputError: A name that is taken.
    """
    if version.kind == "model":
        return _with_base(spec, version, share)
    if share is not None and spec.canary is not None and canary_in(spec, version.name) is None:
        raise ConflictError(
            f"{spec.canary.model} is being tried: one at a time", where=spec.name, remedy="promote it, or take it back"
        )
    spec = without_canary(spec, version.name)
    live = live_in(spec, version.name)
    if share is not None:
        name = (live.name if live else version.name)[: NAME_LENGTH - len(CANARY)].rstrip("-") + CANARY
        adapters = [*spec.adapters, AdapterSpec(name=name, uri=version.uri)]
        return _changed(spec, adapters=adapters, canary={"model": name, "share": share}, prompt=version.prompt)
    slot = AdapterSpec(name=live.name if live else version.name, uri=version.uri)
    adapters = [slot if each == live else each for each in spec.adapters] + ([] if live else [slot])
    return _changed(spec, adapters=adapters, default_model=slot.name, prompt=version.prompt)


def without_canary(spec: RagSpec, model: str) -> RagSpec:
    """An application that tries no version of a model any more."""
    tried = canary_in(spec, model)
    if tried is None:
        return spec
    return spec.model_copy(update={"canary": None, "adapters": tuple(each for each in spec.adapters if each != tried)})


def taken_back(spec: RagSpec, before: RagSpec, model: str) -> RagSpec:
    """An application with what it had of a model before, and the prompt and default that went with it.

    What else has changed since stays: other adapters, limits, scaling, how it searches.

    Args:
        spec: The application now.
        before: As it was.
        model: Whose version goes back.
    """
    if _is(spec.model, model) or _is(before.model, model):
        return _changed(spec, model=before.model, prompt=before.prompt)
    live, then = live_in(spec, model), live_in(before, model)
    now, was = answers_itself(spec, model), answers_itself(before, model)
    moves_default = now is not None and (now or was is True)
    spec = without_canary(spec, model)
    adapters = [then if each == live else each for each in spec.adapters] + ([then] if then and not live else [])
    kept = [each for each in adapters if each is not None]
    if not moves_default:
        return _changed(spec, adapters=kept)
    default = before.default_model if before.default_model in {each.name for each in kept} else None
    return spec_of({**spec.canonical(), **_plain(adapters=kept, prompt=before.prompt), "default_model": default})


def changes(before: RagSpec, after: RagSpec) -> tuple[str, ...]:
    """The places at which two specs differ."""
    a, b = before.canonical(), after.canonical()
    return tuple(name for name in a if a[name] != b[name])


def spec_of(fields: Mapping[str, Any]) -> RagSpec:
    """A spec, checked.

    Raises:
        InputError: It doesn't fit together.
    """
    try:
        return RagSpec.model_validate(fields)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        raise InputError(f"the application can't be so: {said}", remedy="deploy a file that says it") from None


def _with_base(spec: RagSpec, version: Version, share: float | None) -> RagSpec:
    if share is not None:
        raise ConflictError(
            f"{version.name} is a whole model: an application has room for one alone",
            remedy="deploy it as an application of its own, or promote it without --canary",
        )
    if spec.adapters:
        names = ", ".join(each.name for each in spec.adapters)
        raise ConflictError(
            f"{names}: trained over {spec.model}, and of no use over {version.name}",
            where=spec.name,
            remedy="deploy it without adapters first",
        )
    return _changed(spec, model=version.uri, prompt=version.prompt)


def _changed(spec: RagSpec, **fields: Any) -> RagSpec:
    return spec_of({**spec.canonical(), **_plain(**fields)})


def _plain(**fields: Any) -> dict[str, Any]:
    """Fields of a spec as JSON types; None: as it is."""
    adapters = fields.pop("adapters", None)
    prompt = fields.pop("prompt", None)
    plain = {name: value for name, value in fields.items() if value is not None}
    plain |= {} if adapters is None else {"adapters": [each.canonical() for each in adapters]}
    return plain | ({} if prompt is None else {"prompt": prompt.canonical()})


def _is(uri: str, model: str) -> bool:
    named = version_in(uri)
    return named is not None and named[0] == model
