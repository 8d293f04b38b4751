"""What an application answers with once a version of a fine-tuned model takes over, is tried, or goes back.

Specs to specs: nothing is looked up or changed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from tandem.errors import ConflictError, InputError
from tandem.orchestrator.deploying.served import canary_in, default_uri, is_version_of, live_in, version_of
from tandem.orchestrator.promotion.rules import Standing, Version
from tandem.specs.adapters import AdapterSpec
from tandem.specs.rag import RagSequenceSpec, RagSpec, UpstreamSpec

NAME_LENGTH = 40
CANARY = "-canary"


@dataclass(frozen=True)
class Change:
    """What a promotion or a rollback does to an application.

    Attributes:
        app: The application.
        model: The model's name.
        version: The id that it stands for from then on; None: it is taken out.
        was: The id before; None: it wasn't there.
        share: Of the canary that begins or ends; None where it is about all.
        answers: What answers from then on what is asked of the application's own name, in words.
        answered: What did before.
        changed: The places of the application's spec that change.
        standing: What comparisons say; None of a rollback, or where none does.
        refusals: What spoke against it, and was overruled.
        notes: What else is to be known.
    """

    app: str
    model: str
    version: str | None
    was: str | None
    share: float | None
    answers: str
    answered: str
    changed: tuple[str, ...]
    standing: Standing | None = None
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.share is None:
            before = f"; before: {self.answered}" if self.answered != self.answers else " as before"
            return f"{self.app}: {self.answers} answers{before}"
        if self.version is None or self.version == self.was:
            return f"{self.app}: {self.answers} answers all; what was tried is gone"
        return f"{self.app}: {self.version} answers {self.share:.0%} of the conversations; {self.answers} the rest"

    def facts(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def promoted(spec: RagSpec, version: Version, *, share: float | None = None) -> RagSpec:
    """An application once a version answers what is asked of its own name, or a share of that.

    Args:
        spec: The application now.
        version: What takes over, with the prompt that it was trained with.
        share: Of a canary, between 0 and 1; None: all, and a canary of this model ends.

    Raises:
        ConflictError: It answers already, another model's canary is on, or there is no place for it.
        InputError: A name that is taken.
    """
    if version.kind == "model":
        return _with_base(spec, version, share)
    live = live_in(spec, version.name)
    if share is not None and live is not None and live.uri == version.uri and spec.default_model == live.name:
        raise ConflictError(f"{version.id} answers all of it already", where=spec.name)
    if share is not None and spec.canary is not None and canary_in(spec, version.name) is None:
        raise ConflictError(
            f"{spec.canary.model} is being tried: one at a time", where=spec.name, remedy="promote it, or take it back"
        )
    spec = without_canary(spec, version.name)
    own = {} if version.prompt is None else {"prompt": version.prompt.canonical()}
    if share is not None:
        tried = AdapterSpec(name=_canary_name(spec, version.name), uri=version.uri)
        adapters = [*spec.adapters, tried]
        return _changed(spec, adapters=adapters, canary={"model": tried.name, "share": share}, **own)
    slot = AdapterSpec(name=live.name if live else version.name, uri=version.uri)
    adapters = [slot if each == live else each for each in spec.adapters] + ([] if live else [slot])
    return _changed(spec, adapters=adapters, default_model=slot.name, **own)


def without_canary(spec: RagSpec, model: str) -> RagSpec:
    """An application that tries no version of a model any more; an adapter that was there for that alone goes."""
    tried = canary_in(spec, model)
    if tried is None:
        return spec
    ours = tried.name == _canary_name(spec, model)
    return _changed(spec, canary=None, adapters=[each for each in spec.adapters if each != tried or not ours])


def taken_back(spec: RagSpec, before: RagSpec, model: str) -> RagSpec:
    """An application with what it had of a model before, and the prompt and default that went with it.

    What else has changed since stays: other adapters, limits, scaling, how it searches.

    Args:
        spec: The application now.
        before: As it was.
        model: Whose version goes back.

    Raises:
        ConflictError: Adapters are there of the base model that would go.
        InputError: A name that is taken meanwhile.
    """
    if is_version_of(spec.model, model):
        _check_no_adapters(spec, before.model)
        return _changed(spec, model=before.model, prompt=before.prompt.canonical())
    live, then = live_in(spec, model), live_in(before, model)
    moves_default = default_uri(spec) is None or (live is not None and spec.default_model == live.name)
    spec = without_canary(spec, model)
    adapters = [then if each == live else each for each in spec.adapters] + ([then] if then and not live else [])
    kept = [each for each in adapters if each is not None]
    if not moves_default:
        return _changed(spec, adapters=kept)
    default = before.default_model if before.default_model in {each.name for each in kept} else None
    return _changed(spec, adapters=kept, default_model=default, prompt=before.prompt.canonical())


def earlier(history: Sequence[tuple[RagSpec, bool]], now: RagSpec, model: str) -> int | None:
    """The state of an application to which a model goes back: that before it came to be as it is, and so on.

    What was rolled back isn't gone back to: two rollbacks in a row lead two steps back.

    Args:
        history: Its states, the oldest first, and whether a rollback of this model made each.
        now: The application.
        model: Whose version goes back.

    Returns:
        Which of the states; None: there is none before.
    """
    stack: list[tuple[tuple[str | None, bool], RagSpec, int]] = []
    for place, (spec, rolled_back) in enumerate([*history, (now, False)]):
        settled = without_canary(spec, model)
        whole = is_version_of(settled.model, model) or is_version_of(now.model, model)
        if stack and not whole and stack[-1][1].model != settled.model:
            # What was trained over another base model is of no use over this one.
            stack.clear()
        state = version_of(settled, model), _role(settled, model, stack[-1][0] if stack else None)
        if rolled_back:
            while stack and stack[-1][0][0] != state[0]:
                stack.pop()
            state = stack[-1][0] if stack else state
        if stack and stack[-1][0] == state:
            # With what was changed of it since.
            stack.pop()
        stack.append((state, settled, place))
    return stack[-2][2] if len(stack) > 1 else None


def changes(before: RagSpec, after: RagSpec) -> tuple[str, ...]:
    """The places at which two specs differ."""
    a, b = before.canonical(), after.canonical()
    return tuple(name for name in a if a[name] != b[name])


def _role(spec: RagSpec, model: str, before: tuple[str | None, bool] | None) -> bool:
    """Whether a model answers what is asked of the application's own name; where another one took that: as before."""
    live = live_in(spec, model)
    if is_version_of(spec.model, model) or (live is not None and spec.default_model == live.name):
        return True
    taken = default_uri(spec) is not None and live is not None
    return before[1] if taken and before is not None else False


def _canary_name(spec: RagSpec, model: str) -> str:
    live = live_in(spec, model)
    return (live.name if live else model)[: NAME_LENGTH - len(CANARY)].rstrip("-") + CANARY


def _with_base(spec: RagSpec, version: Version, share: float | None) -> RagSpec:
    if share is not None:
        raise ConflictError(
            f"{version.name} is a whole model: an application has room for one alone",
            remedy="deploy it as an application of its own, or promote it without --canary",
        )
    if isinstance(spec.engine, UpstreamSpec | RagSequenceSpec):
        raise ConflictError(f"engine {spec.engine.name} answers with other models than ours", where=spec.name)
    _check_no_adapters(spec, version.name)
    own = {} if version.prompt is None else {"prompt": version.prompt.canonical()}
    return _changed(spec, model=version.uri, **own)


def _check_no_adapters(spec: RagSpec, other: str) -> None:
    if spec.adapters:
        names = ", ".join(each.name for each in spec.adapters)
        raise ConflictError(
            f"{names}: trained over {spec.model}, and of no use over {other}",
            where=spec.name,
            remedy="deploy it without adapters first",
        )


def _changed(spec: RagSpec, **fields: Any) -> RagSpec:
    """With other values in some places; adapters as specs.

    Raises:
        InputError: It doesn't fit together.
    """
    if "adapters" in fields:
        fields["adapters"] = [each.canonical() for each in fields["adapters"]]
    try:
        return RagSpec.model_validate({**spec.canonical(), **fields})
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        raise InputError(f"the application can't be so: {said}", remedy="deploy a file that says it") from None
