"""What can be told of a spec's inputs before anything runs: where they are, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tandem.data.labelled import holds_texts
from tandem.data.sources import list_data_files
from tandem.errors import DataError, SpecError
from tandem.specs.pipeline import REFERENCE

# The control loop doesn't stand still for seconds because somebody indexes a whole disk.
MOST_LOOKED_AT = 200_000
SCHEMES = ("file", "hf", "pypi", "artifact")
# Where the specs name inputs, and what each must be; `*` stands for every item of a list.
INPUTS: Mapping[str, Mapping[str, str]] = {
    "index": {"sources.*.uri": "documents", "embedder.model": "model"},
    "finetune": {"model": "model", "data.train": "row files", "data.eval": "row files", "deepspeed": "file"},
    "compare": {
        "model": "model",
        **dict.fromkeys(("adapter", "adapter.*", "raft_adapter", "raft_adapter.*"), "adapter"),
        **dict.fromkeys(("classifier", "classifier.*"), "classifier"),
        "train": "row files",
        "eval": "rows",
        "neighbours.embedder.model": "model",
    },
    "rag": {"model": "model", "adapters.*.uri": "adapter", "retriever.rerank.model": "model"},
    "promote": {},
    "cluster": {},
}


def inputs(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(place in the spec, value) of every input that a canonical spec names; of a pipeline, of all its steps."""
    if spec["kind"] == "pipeline":
        return [
            (f"steps.{name}.spec.{place}", value)
            for name, step in spec["steps"].items()
            for place, value in inputs(step["spec"])
        ]
    return [(place, value) for pattern in INPUTS[spec["kind"]] for place, value in _find(spec, pattern.split("."), "")]


def absolute(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A canonical spec with its relative paths made absolute.

    Args:
        spec: Of any kind.
        folder: What relative paths are relative to.
    """
    result: dict[str, Any] = dict(spec)
    for place, value in inputs(spec):
        result = _with(result, place.split("."), absolute_uri(value, folder))
    return result


def replaced(spec: Mapping[str, Any], place: str, value: str) -> dict[str, Any]:
    """A canonical spec with another value at a place that `inputs` named."""
    result: dict[str, Any] = _with(spec, place.split("."), value)
    return result


def absolute_uri(uri: str, folder: Path) -> str:
    """A URI as it is, unless it is a local path: then that path, absolute."""
    if REFERENCE.search(uri):
        return uri
    scheme, _, rest = uri.partition(":")
    if scheme != "file" and (scheme in SCHEMES or rest.startswith("//")) and rest:
        return uri
    return str((folder / Path(rest if scheme == "file" else uri).expanduser()).absolute())


def is_local(value: str) -> bool:
    """Whether an input of a spec whose paths are absolute is a path on this machine."""
    scheme, _, rest = value.partition(":")
    return not ((scheme in SCHEMES or rest.startswith("//")) and rest) and not REFERENCE.search(value)


def missing_inputs(spec: Mapping[str, Any], *, where: str) -> list[SpecError]:
    """Local inputs that aren't what they must be.

    Args:
        spec: Canonical, its paths absolute.
        where: The file that the spec comes from, for the messages.

    Returns:
        One error for each; URIs that only a download or a job can resolve aren't looked at.
    """
    if spec["kind"] == "pipeline":
        return [
            fault
            for name, step in spec["steps"].items()
            for fault in missing_inputs(step["spec"], where=f"{where}: step {name}")
        ]
    faults = []
    for pattern, usual in INPUTS[spec["kind"]].items():
        labelled = usual in ("rows", "row files") and spec.get("task") == "classification"
        role = "labelled rows" if labelled else usual
        for place, value in _find(spec, pattern.split("."), ""):
            if not is_local(value):
                continue
            fault = _fault(role, Path(value))
            if fault:
                what, remedy = fault
                faults.append(SpecError(f"{what}: {value}", where=f"{where}: {place}", remedy=remedy))
    return faults


def _fault(role: str, path: Path) -> tuple[str, str] | None:  # noqa: PLR0911 - a table of cases
    if role == "labelled rows":
        if holds_texts(path):
            return None
        role = "row files"
    if role == "row files" and (path.is_dir() or {"*", "?"} & set(str(path))):
        return _no_row_files(path)
    if not path.exists():
        return "no such file or folder", "check the path; it is relative to the current folder"
    if role in ("rows", "row files", "file") and not path.is_file():
        return "not a file", "name a file"
    if role in ("rows", "row files") and not path.stat().st_size:
        return "an empty file", "it needs one row at least"
    if role == "documents" and path.is_dir() and not any(item.is_file() for item in path.rglob("*")):
        return "an empty folder", "put documents into it, or name another"
    if role == "model" and not _has_weights(path):
        return "a model path without weights", "it needs config.json and *.safetensors, or a .gguf file"
    if role == "classifier" and not any(path.glob("*.safetensors")):
        return "a classifier path without weights", "give what a finetune job with task: classification made"
    if role == "adapter" and not (path / "adapter_model.safetensors").is_file():
        return "an adapter path without weights", "it needs adapter_config.json and adapter_model.safetensors"
    return None


def _no_row_files(path: Path) -> tuple[str, str] | None:
    try:
        list_data_files(str(path))
    except DataError as error:
        return error.what, error.remedy or "check the path"
    return None


def _has_weights(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".gguf"
    # An embedder of sentence-transformers keeps its weights beside modules.json or one folder further down.
    return any(path.glob("*.gguf")) or (
        any(path.glob("**/*.safetensors")) and ((path / "config.json").is_file() or (path / "modules.json").is_file())
    )


def _find(value: Any, parts: list[str], place: str) -> Iterator[tuple[str, str]]:
    if not parts:
        if isinstance(value, str):
            yield place, value
        return
    head, *rest = parts
    if head == "*":
        # A field that takes one or several may hold one.
        for number, item in enumerate(value if isinstance(value, list | tuple) else ()):
            yield from _find(item, rest, f"{place}.{number}")
    elif isinstance(value, Mapping) and value.get(head) is not None:
        yield from _find(value[head], rest, f"{place}.{head}" if place else head)


def _with(value: Any, parts: list[str], new: str) -> Any:
    if not parts:
        return new
    head, *rest = parts
    if isinstance(value, list | tuple):
        return [_with(item, rest, new) if number == int(head) else item for number, item in enumerate(value)]
    return {**value, head: _with(value[head], rest, new)}


def changed_at(spec: Mapping[str, Any]) -> float | None:
    """When the local files that a spec names last changed, in seconds since the epoch; None where none can be seen.

    A folder counts with all that is in it: also what was taken out of it changes it. No more than `MOST_LOOKED_AT`
    files are looked at.
    """
    # Relative ones lie in a working directory, whose hash stands in the spec.
    found = [Path(value) for _, value in inputs(spec) if is_local(value)]
    roots = [_before_glob(path) for path in found if path.is_absolute()]
    paths = (each for root in roots for each in chain([root], root.rglob("*") if root.is_dir() else ()))
    times = [_changed_at(path) for path in islice(paths, MOST_LOOKED_AT)]
    return max((at for at in times if at is not None), default=None)


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        # Gone meanwhile, or not for our eyes: the job will tell.
        return None


def _before_glob(path: Path) -> Path:
    """The folder in which a glob looks; any other path as it is."""
    starred = [number for number, part in enumerate(path.parts) if {"*", "?"} & set(part)]
    return Path(*path.parts[: starred[0]]) if starred else path
