"""What a job brings along is gathered where it is submitted: its folder, and values of this environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import InputError, SpecError
from tandem.specs.runtime import PACKAGE

if TYPE_CHECKING:
    from tandem.cli.client import Client
    from tandem.cli.working_dir import Found


@dataclass(frozen=True)
class Gathered:
    """A job as it is submitted.

    Attributes:
        spec: Canonical; names working directories by hash.
        found: By hash, the files of those that it brings from here.
    """

    spec: dict[str, Any]
    found: Mapping[str, Found]


def runtime_overrides(env: Sequence[str], working_dir: Path | None, pip: Sequence[str]) -> list[str]:
    """The options of `tandem submit` as what they are: fields of the spec's `runtime`.

    Args:
        env: ``KEY=VALUE``, or ``NAME`` for one whose value is taken from here and recorded nowhere.
        working_dir: A folder.
        pip: Requirements.

    Raises:
        InputError: A variable without a name.
    """
    made = []
    for word in env:
        name, given, value = word.partition("=")
        if not name or "." in name:
            raise InputError(
                f"no variable's name: {word!r}", where="--env", remedy="write --env KEY=VALUE, or --env NAME"
            )
        made.append(f"runtime.env.{name}={json.dumps(value if given else None)}")
    if working_dir is not None:
        made.append(f"runtime.working_dir={json.dumps(str(working_dir))}")
    if pip:
        made.append(f"runtime.pip={json.dumps(list(pip))}")
    return made


def gather(spec: Mapping[str, Any]) -> Gathered:
    """Pack the working directories that a job, or the steps of a pipeline, have on this machine.

    Inputs that lie in one are read from the copy that travels: their paths are made relative to it.

    Args:
        spec: Canonical, its paths absolute.

    Raises:
        SpecError: A folder isn't there or too large, or an input in it is left out.
    """
    if spec["kind"] == "pipeline":
        steps = {name: (step, gather(step["spec"])) for name, step in spec["steps"].items()}
        gathered = {name: {**step, "spec": each.spec} for name, (step, each) in steps.items()}
        found = {hashed: files for _, each in steps.values() for hashed, files in each.found.items()}
        return Gathered({**spec, "steps": gathered}, found)
    named = (spec.get("runtime") or {}).get("working_dir")
    if named is None or named.startswith(PACKAGE) or "://" in named:
        return Gathered(dict(spec), {})
    from tandem.cli.working_dir import look, packed

    files = look(Path(named).expanduser().absolute())
    with packed(files) as (hashed, _):
        runtime = {**spec["runtime"], "working_dir": PACKAGE + hashed}
    return Gathered(_relative({**spec, "runtime": runtime}, files), {hashed: files})


def submit_job(client: Client, spec: Mapping[str, Any], *, again: bool = False) -> dict[str, Any]:
    """Submit a job with what it brings along; ``created`` says whether it is new.

    Args:
        client: Of the server.
        spec: Canonical, its paths absolute.
        again: Run it anew although there is one of the same name and spec.

    Raises:
        SpecError: What it brings along can't be sent.
    """
    secrets = secrets_of(spec)
    gathered = gather(spec)
    for named, files in gathered.found.items():
        if not client.has_package(named):
            _send(client, named, files)
    return client.submit(gathered.spec, again=again, secrets=secrets)


def _send(client: Client, named: str, files: Found) -> None:
    from tandem.cli.working_dir import packed

    with packed(files) as (hashed, file):
        if hashed != named:
            raise SpecError("a file was changed meanwhile", where="runtime.working_dir", remedy="submit again")
        client.send_package(hashed, file)


def secrets_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """The values that a spec, or those of a pipeline's steps, take from this environment.

    Raises:
        SpecError: One isn't set.
    """
    from tandem.orchestrator.runtime import jobs_in, runtime_of

    names = {name for each in jobs_in(spec) for name in runtime_of(each).secret_names}
    if lacking := sorted(name for name in names if name not in os.environ):
        raise SpecError(
            f"not set in this environment: {', '.join(lacking)}",
            where="runtime.env",
            remedy="set it for this command: `NAME=… tandem submit …`",
        )
    return {name: os.environ[name] for name in names}


def _relative(spec: dict[str, Any], found: Found) -> dict[str, Any]:
    from tandem.orchestrator.preflight import inputs, replaced

    for place, value in inputs(spec):
        path = Path(value)
        if not path.is_absolute() or not path.is_relative_to(found.folder):
            continue
        relative = str(path.relative_to(found.folder))
        if relative != "." and not found.holds(relative) and not {"*", "?"} & set(relative):
            raise SpecError(
                f"{relative} is left out of the working directory",
                where=place,
                remedy="see its .gitignore and .rayignore, or move the file elsewhere",
            )
        spec = replaced(spec, place, relative)
    return spec
