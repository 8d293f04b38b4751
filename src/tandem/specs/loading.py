"""From a YAML file to a spec, with every error at once and the line that each stands on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tandem.errors import InvalidSpecError, SpecError
from tandem.specs import KINDS
from tandem.specs.base import Spec
from tandem.specs.rag import RagSpec

SERVE_APP = "tandem.serving.app:build"
Location = tuple[str | int, ...]
S = TypeVar("S", bound=BaseModel)


class Places(Protocol):
    """Says where a place of a spec stands."""

    def where(self, location: Location) -> str:
        """``file:line: field``."""


@dataclass
class Document:
    """A YAML file as data, with the line of each key.

    Attributes:
        path: The file.
        data: Its content.
        lines: One-based line by location (`("schedule", "epochs")`).
        overridden: Keys that the command line set, with dots.
    """

    path: Path
    data: dict[str, Any]
    lines: dict[Location, int] = field(default_factory=dict)
    overridden: set[str] = field(default_factory=set)

    def where(self, location: Location) -> str:
        """``file:line: field`` of the deepest part of the location that the file states."""
        # The model of a field that takes several types adds parts of its own to a location: they have no line.
        name = ".".join(str(part) for part in location)
        if name in self.overridden:
            return f"command line: {name}"
        known = location
        while known and known not in self.lines:
            known = known[:-1]
        line = self.lines.get(known, 1)
        return f"{self.path}:{line}: {name}" if name else f"{self.path}:{line}"


def read_yaml(path: Path) -> Document:
    """Parse a YAML file.

    Raises:
        SpecError: No such file, not YAML, not a mapping, or a key that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError("no such file", where=str(path), remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"can't be read: {error}", where=str(path)) from None
    try:
        # The C loader is ten times faster; `validate` has a second for all files.
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        document = Document(path, {})
        if not isinstance(root, yaml.MappingNode):
            raise SpecError("not a mapping of keys to values", where=f"{path}:1", remedy="start with `kind: …`")
        document.data = _build(root, (), document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise SpecError(f"not YAML: {error.problem}", where=where, remedy="mend the syntax there") from None
    return document


def _build(node: yaml.Node, location: Location, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = (*location, key)
            if key in mapping:
                where = f"{document.path}:{key_node.start_mark.line + 1}: {'.'.join(map(str, inner))}"
                raise SpecError("this key stands twice", where=where, remedy="remove one")
            document.lines[inner] = key_node.start_mark.line + 1
            mapping[key] = _build(value_node, inner, document)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for number, item in enumerate(node.value):
            document.lines[(*location, number)] = item.start_mark.line + 1
            items.append(_build(item, (*location, number), document))
        return items
    return yaml.safe_load(yaml.serialize(node))


def apply_overrides(document: Document, overrides: Iterable[str]) -> list[SpecError]:
    """Set ``key.inner=value`` in place; values are YAML. Returns the malformed ones as errors."""
    errors = []
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            errors.append(SpecError("not key=value", where=override, remedy="write for example schedule.epochs=2"))
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        document.overridden.add(key)
        target: Any = document.data
        *parents, last = key.split(".")
        for part in parents:
            step = target.get(part) if isinstance(target, dict) else _item(target, part)
            if step is None and isinstance(target, dict):
                step = target[part] = {}
            target = step
        if isinstance(target, list) and last.isdigit() and int(last) < len(target):
            target[int(last)] = value
        elif isinstance(target, dict):
            target[last] = value
        else:
            errors.append(
                SpecError("there is no such place", where=override, remedy="`tandem schema KIND` lists the fields")
            )
    return errors


def _item(target: Any, part: str) -> Any:
    return target[int(part)] if isinstance(target, list) and part.isdigit() and int(part) < len(target) else None


def load_spec(path: Path, overrides: Sequence[str] = ()) -> Spec:
    """Read and check a spec file of any kind but a Serve config.

    Args:
        path: A YAML file with a `kind`.
        overrides: ``key.inner=value``, applied before checking.

    Raises:
        InvalidSpecError: With every fault found.
    """
    document = read_yaml(path)
    errors = apply_overrides(document, overrides)
    kind = document.data.get("kind")
    if kind not in KINDS:
        said = f"no spec is of kind {kind!r}" if kind is not None else "`kind` is missing"
        errors.append(SpecError(said, where=document.where(("kind",)), remedy=f"kinds: {', '.join(sorted(KINDS))}"))
        raise InvalidSpecError(errors)
    spec: Spec | None
    if kind == "pipeline":
        from tandem.specs.pipeline_files import check_pipeline

        spec, faults = check_pipeline(document)
    else:
        spec, faults = check(KINDS[kind], document.data, document)
    if errors + faults or spec is None:
        raise InvalidSpecError(errors + faults)
    return spec


@dataclass(frozen=True)
class ServeConfig:
    """A native Ray Serve config, and the endpoint specs in it.

    Attributes:
        config: As Ray Serve takes it.
        specs: The arguments of each Tandem application, by its name.
    """

    config: dict[str, Any]
    specs: dict[str, RagSpec]


def load_serve_config(path: Path, overrides: Sequence[str] = ()) -> ServeConfig:
    """Read a Ray Serve config and check the arguments of every Tandem application in it.

    Raises:
        InvalidSpecError: With every fault found.
    """
    document = read_yaml(path)
    errors = apply_overrides(document, overrides)
    applications = document.data.get("applications")
    if not isinstance(applications, list) or not applications:
        errors.append(SpecError("no applications", where=document.where(("applications",)), remedy="list at least one"))
        raise InvalidSpecError(errors)
    specs: dict[str, RagSpec] = {}
    for number, application in enumerate(applications):
        at: Location = ("applications", number)
        name = application.get("name") if isinstance(application, dict) else None
        if not isinstance(name, str):
            errors.append(SpecError("an application needs a name", where=document.where(at), remedy="add `name:`"))
        elif application.get("import_path") == SERVE_APP:
            spec, faults = check(RagSpec, application.get("args") or {}, document, (*at, "args"))
            errors += faults
            if spec is not None:
                specs[name] = spec
    if errors:
        raise InvalidSpecError(errors)
    return ServeConfig(document.data, specs)


def is_serve_config(path: Path) -> bool:
    """Whether the file is a Ray Serve config, which has applications, and no kind."""
    data = read_yaml(path).data
    return "applications" in data and "kind" not in data


def validate_file(path: Path, overrides: Sequence[str] = ()) -> list[SpecError]:
    """Every fault of a file of any kind; empty when it is sound."""
    try:
        if is_serve_config(path):
            load_serve_config(path, overrides)
        else:
            load_spec(path, overrides)
    except InvalidSpecError as error:
        return list(error.errors)
    except SpecError as error:
        return [error]
    return []


def check(
    model: type[S], data: dict[str, Any], document: Document, prefix: Location = ()
) -> tuple[S | None, list[SpecError]]:
    """Validate data against a model; the spec, or its faults with their places."""
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        faults = []
        for detail in error.errors(include_url=False):
            location = tuple(part for part in detail["loc"])
            faults.append(fault_of(model, detail["type"], detail["msg"], location, document, prefix))
        return None, faults


def fault_of(
    model: type[BaseModel], type_: str, message: str, location: Location, places: Places, prefix: Location = ()
) -> SpecError:
    """One of pydantic's errors as one of ours, with its place and what to do."""
    where = places.where(prefix + location)
    if type_ == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
        return SpecError(f"unknown key {location[-1]!r}", where=where, remedy=remedy)
    if type_ == "missing":
        return SpecError("is required and missing", where=where, remedy="`tandem schema KIND` describes it")
    text = message.removeprefix("Value error, ")
    return SpecError(text[:1].lower() + text[1:], where=where, remedy="`tandem schema KIND` describes it")


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Field names of the model nested at a location; of the top one where the path isn't plain."""
    for part in location:
        field_info = model.model_fields.get(part) if isinstance(part, str) else None
        if field_info is None:
            continue
        candidates = [field_info.annotation, *_flatten(field_info.annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        model = inner or model
    return list(model.model_fields)


def _flatten(annotation: Any) -> list[Any]:
    found = []
    for argument in get_args(annotation):
        found += [argument, *_flatten(argument)]
    return found
