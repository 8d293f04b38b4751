"""A pipeline's file and the files of its steps as one: each fault with the file and line where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tandem.errors import SpecError
from tandem.specs import KINDS
from tandem.specs.base import Spec
from tandem.specs.loading import Document, Location, fault_of, read_yaml
from tandem.specs.pipeline import OUTPUTS, PipelineSpec


@dataclass(frozen=True)
class StepPlaces:
    """Where a step's spec stands: in a file of its own, or in the pipeline's, which may say what is different.

    Attributes:
        step: Its name.
        pipeline: The pipeline's file.
        own: The step's file, if it has one.
    """

    step: str
    pipeline: Document
    own: Document | None

    def where(self, location: Location) -> str:
        """``file:line: field`` of a place in the step's spec."""
        full: Location = ("steps", self.step, "spec", *location)
        said_here = full in self.pipeline.lines or ".".join(map(str, full)) in self.pipeline.overridden
        return self.pipeline.where(full) if self.own is None or said_here else self.own.where(location)


def check_pipeline(document: Document) -> tuple[PipelineSpec | None, list[SpecError]]:
    """A pipeline with the files of its steps put in, or everything that is wrong with it and with them.

    Args:
        document: The pipeline's file; what the command line sets has been set.
    """
    faults: list[SpecError] = []
    places: dict[str, StepPlaces] = {}
    data = dict(document.data)
    if isinstance(data.get("steps"), Mapping):
        data["steps"] = {str(name): step for name, step in data["steps"].items()}
        for name, step in data["steps"].items():
            try:
                data["steps"][name], own = _with_file(name, step, document)
            except SpecError as error:
                faults.append(error)
            else:
                places[name] = StepPlaces(name, document, own)
    unread = set(data["steps"]) - set(places) if isinstance(data.get("steps"), Mapping) else set()
    try:
        spec = PipelineSpec.model_validate(data)
        return (None if faults else spec), faults
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place: Location = detail["loc"]
            if place[0] == "steps" and len(place) > 1 and place[1] in unread:
                continue  # all that can be said of it is that its file can't be read
            faults.append(_fault(place, detail["type"], detail["msg"], data, document, places))
    return None, faults


def _with_file(name: str, step: Any, document: Document) -> tuple[Any, Document | None]:
    """A step with its file's content as its `spec`, and that file."""
    if not isinstance(step, Mapping) or not isinstance(step.get("file"), str):
        return step, None
    at = document.where(("steps", name, "file"))
    try:
        own = read_yaml(Path(step["file"]).expanduser())
    except SpecError as error:
        # What is wrong inside the file has a line there; that there is none is said where it is named.
        raise error if ":" in (error.where or "") else SpecError(f"{error.what}: {step['file']}", where=at,
                                                                 remedy=error.remedy) from None  # fmt: skip
    other = step.get("spec")
    whole = merged(own.data, other) if isinstance(other, Mapping) else own.data if other is None else other
    return {**{key: value for key, value in step.items() if key != "file"}, "spec": whole}, own


def merged(first: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Data in which another's keys replace its own; mappings are merged likewise."""
    whole = dict(first)
    for key, value in other.items():
        before = whole.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        whole[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return whole


def _fault(
    place: Location,
    type_: str,
    message: str,
    data: Mapping[str, Any],
    document: Document,
    places: Mapping[str, StepPlaces],
) -> SpecError:
    if len(place) < 3 or place[0] != "steps" or place[2] != "spec" or str(place[1]) not in places:
        return fault_of(PipelineSpec, type_, message, place, document)
    if len(place) == 3 and type_ == "missing":
        return SpecError("needs a spec", where=document.where(place[:2]), remedy="give its `spec`, or a `file`")
    step = data["steps"][place[1]]
    kind = str(step["spec"].get("kind")) if isinstance(step["spec"], Mapping) else ""
    model: type[Spec] = KINDS[kind] if kind in OUTPUTS else PipelineSpec
    return fault_of(model, type_, message, place[3:], places[str(place[1])])
