"""`kind: pipeline`: jobs of which one uses what another makes; each begins when what it needs is done."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from tandem.specs.base import Name, Spec
from tandem.specs.compare import CompareSpec
from tandem.specs.finetune import FinetuneSpec
from tandem.specs.index import IndexSpec
from tandem.specs.promote import PromoteSpec
from tandem.specs.queue import QueueSpec

REFERENCE = re.compile(r"\$\{(?P<step>[^{}.]*)(?:\.(?P<output>[^{}]*))?\}")
ARTIFACT = "artifact"
# What a step of each kind hands on. All but the artifact stand in its spec; the artifact is that of the job that does
# the step's work, which is known once it is submitted.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "index": (ARTIFACT, "collection"),
    "finetune": (ARTIFACT, "model"),
    "compare": (ARTIFACT,),
    "promote": (),
}
Location = tuple[str | int, ...]
Tie = tuple[Location, str, "re.Match[str] | None"]  # where it is said, the step that is needed, the reference
Fault = tuple[Location, str, str]  # place, message, pydantic's type of error or one of our own

OneJob = Annotated[IndexSpec | FinetuneSpec | CompareSpec | PromoteSpec, Field(discriminator="kind")]


def _spec_or_file(schema: dict[str, Any]) -> None:
    """A file of a step has its `spec`, or a `file`: the reader puts one in the place of the other."""
    schema.pop("required", None)
    schema["anyOf"] = [{"required": ["spec"]}, {"required": ["file"]}]


class StepSpec(Spec):
    """One job of a pipeline."""

    model_config = ConfigDict(json_schema_extra=_spec_or_file)

    needs: tuple[Name, ...] = Field(
        (),
        description="steps that must have succeeded; those that the spec names in a `${STEP.OUTPUT}` needn't be listed",
    )
    file: str | None = Field(
        None, exclude=True, description="a spec file; `spec` then has what shall be different from it"
    )
    spec: OneJob = Field(
        description="`${STEP.artifact}` in it stands for what that step made, `${STEP.collection}` for the collection "
        "that an index step fills, `${STEP.model}` for the base model of a finetune step"
    )

    @model_validator(mode="after")
    def _file_was_read(self) -> StepSpec:
        if self.file is not None:
            raise ValueError(
                "file: only `tandem` on the machine that has the file can read it (so: give its content as spec)"
            )
        return self


class PipelineSpec(Spec):
    """Steps without ties run side by side; a step that is done isn't run again; a failed one ends what needs it."""

    kind: Literal["pipeline"]
    name: Name
    steps: dict[Name, StepSpec] = Field(min_length=1)
    queue: QueueSpec = Field(QueueSpec(), description="how its steps wait, as far as they don't say it themselves")

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, data: Any, handler: ModelWrapValidatorHandler[PipelineSpec]) -> PipelineSpec:
        faults, resolved = _resolved(data)
        try:
            spec = handler(resolved)
        except ValidationError as error:
            # An unknown reference is no name of a collection either: that is said once.
            places = {place for place, _, _ in faults}
            plain = [_plain(detail) for detail in error.errors(include_url=False)]
            faults += [fault for fault in plain if fault[0] not in places]
        if faults:
            raise ValidationError.from_exception_data(
                cls.__name__,
                # A template's braces would be taken for places to fill in.
                [InitErrorDetails(type=PydanticCustomError(kind, "{said}", {"said": text}), loc=place, input=None)
                 for place, text, kind in faults],
            )  # fmt: skip
        return spec


def references(value: Any, place: Location = ()) -> Iterator[tuple[Location, re.Match[str]]]:
    """Every ``${…}`` in a spec, and where it stands."""
    if isinstance(value, str):
        yield from ((place, match) for match in REFERENCE.finditer(value))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from references(inner, (*place, str(key)))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from references(inner, (*place, number))


def substituted(value: Any, known: Mapping[tuple[str, str], str]) -> Any:
    """A spec in which those references are replaced that are known.

    Args:
        value: The spec, or a part of it.
        known: By step and output, what stands for it.
    """
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: known.get((match["step"], match["output"] or ""), match[0]), value)
    if isinstance(value, Mapping):
        return {key: substituted(inner, known) for key, inner in value.items()}
    return [substituted(inner, known) for inner in value] if isinstance(value, list | tuple) else value


def _resolved(data: Any) -> tuple[list[Fault], Any]:
    """What is wrong with the graph, and the data with all that one step hands on to another but artifacts.

    Steps are taken as far as they look like some: what else is wrong with them their own models say.
    """
    steps = data.get("steps") if isinstance(data, Mapping) else None
    if not isinstance(steps, Mapping):
        return [], data
    specs = {name: step["spec"] for name, step in steps.items() if _is_step(step)}
    faults = _names_twice(str(data.get("name")), specs)
    graph: dict[str, set[str]] = {}
    for name, step in steps.items():
        ties: list[Tie] = [(("steps", name, "needs", number), need, None) for number, need in _needs(step)]
        ties += [
            (("steps", name, "spec", *place), match["step"], match) for place, match in references(specs.get(name))
        ]
        found = [(place, _fault_of_tie(name, need, match, steps, specs)) for place, need, match in ties]
        faults += [(place, fault, "tie") for place, fault in found if fault]
        graph[name] = {need for (_, need, _), (_, fault) in zip(ties, found, strict=True) if not fault}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        ring = error.args[1][::-1]
        faults.append((("steps", ring[0]), f"needs itself: {' needs '.join(ring)}", "cycle"))
        order = list(steps)
    known = {(name, output): value for name, spec in specs.items() for output, value in _handed_on(spec).items()}
    changed = dict(steps)
    for name in order:
        if name in specs:
            spec = _queued(substituted(specs[name], known), data.get("queue"))
            known |= {(name, output): value for output, value in _handed_on(spec).items()}
            changed[name] = {**steps[name], "spec": spec, "needs": _all_needs(steps[name], graph[name])}
    return faults, {**data, "steps": changed}


def _needs(step: Any) -> list[tuple[int, str]]:
    """The needs that a step states, as far as they are names, and which of them each is."""
    needs = step.get("needs") if isinstance(step, Mapping) else None
    listed = needs if isinstance(needs, list | tuple) else []
    return [(number, need) for number, need in enumerate(listed) if isinstance(need, str)]


def _all_needs(step: Mapping[str, Any], tied: set[str]) -> Any:
    """In the order of their names, so that equal pipelines are equal text; what is no list of names stays as it is."""
    stated = step.get("needs", [])
    names = isinstance(stated, list | tuple) and all(isinstance(need, str) for need in stated)
    return sorted({*stated, *tied}) if names else stated


def _queued(spec: dict[str, Any], queue: Any) -> dict[str, Any]:
    own = spec.get("queue", {})
    return {**spec, "queue": {**queue, **own}} if isinstance(queue, Mapping) and isinstance(own, Mapping) else spec


def _is_step(step: Any) -> bool:
    return isinstance(step, Mapping) and isinstance(step.get("spec"), Mapping)


def _handed_on(spec: Mapping[str, Any]) -> dict[str, str]:
    """What of a spec other steps may refer to."""
    found = {"collection": spec.get("collection") or spec.get("name"), "model": spec.get("model")}
    outputs = OUTPUTS.get(str(spec.get("kind")), ())
    return {output: value for output, value in found.items() if output in outputs and isinstance(value, str)}


def _fault_of_tie(
    name: str,
    need: str,
    match: re.Match[str] | None,
    steps: Mapping[str, Any],
    specs: Mapping[str, Mapping[str, Any]],
) -> str | None:
    said = f"{match[0]}: " if match else ""
    if need == name:
        return f"{said}a step can't need itself"
    if need not in steps:
        return f"{said}there is no step {need!r}{_near(need, steps)}"
    kind = specs[need].get("kind") if need in specs else None
    outputs = OUTPUTS.get(str(kind))
    if match is None or outputs is None or match["output"] in outputs:
        # Of a step whose kind is wrong nothing can be told but that.
        return None
    handed_on = ", ".join(f"${{{need}.{each}}}" for each in outputs)
    return f"{said}a step of kind {kind} hands on {f'{handed_on} alone' if outputs else 'nothing'}"


def _names_twice(pipeline: str, specs: Mapping[str, Mapping[str, Any]]) -> list[Fault]:
    """Artifacts and collections go by their jobs' names: two steps of one name would stand in each other's way."""
    first: dict[str, str] = {pipeline: "the pipeline"}
    faults: list[Fault] = []
    for step, spec in specs.items():
        name, this = spec.get("name"), f"step {step!r}"
        if isinstance(name, str) and first.setdefault(name, this) != this:
            text = f"{first[name]} has this name too: the pipeline and each of its jobs need one of their own"
            faults.append((("steps", step, "spec", "name"), text, "twice"))
    return faults


def _near(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}"


def _plain(detail: Any) -> Fault:
    """A fault of the models, at the place where it stands in the file."""
    place, kind, text = tuple(part for part in detail["loc"] if part != "[key]"), detail["type"], detail["msg"]
    if len(place) > 3 and place[0] == "steps" and place[2] == "spec":
        # pydantic puts the kind behind `spec`.
        place = (*place[:3], *place[4:])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return (*place, "kind"), f"a step is of kind {', '.join(OUTPUTS)}", kind
    return place, text, kind
