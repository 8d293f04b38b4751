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
        spec: Canonical; names its working directory by hash.
        found: The files of that; None where it brings none from here.
    """

    spec: dict[str, Any]
    found: Found | None


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
    """Pack a job's working directory, if it has one on this machine.

    Inputs that lie in it are read from the copy that travels: their paths are made relative to it.

    Args:
        spec: Canonical, its paths absolute.

    Raises:
        SpecError: The folder isn't there or too large, or an input in it is left out.
    """
    from tandem.cli.working_dir import look, packed

    named = (spec.get("runtime") or {}).get("working_dir")
    if named is None or named.startswith(PACKAGE) or "://" in named:
        return Gathered(dict(spec), None)
    found = look(Path(named).expanduser().absolute())
    with packed(found) as (hashed, _):
        runtime = {**spec["runtime"], "working_dir": PACKAGE + hashed}
    return Gathered(_relative({**spec, "runtime": runtime}, found), found)


def submit_job(client: Client, spec: Mapping[str, Any], *, again: bool = False) -> dict[str, Any]:
    """Submit a job with what it brings along; ``created`` says whether it is new.

    Args:
        client: Of the server.
        spec: Canonical, its paths absolute.
        again: Run it anew although there is one of the same name and spec.

    Raises:
        SpecError: What it brings along can't be sent.
    """
    from tandem.cli.working_dir import packed

    secrets = secrets_of(spec)
    gathered = gather(spec)
    if gathered.found is not None:
        named = gathered.spec["runtime"]["working_dir"].removeprefix(PACKAGE)
        if not client.has_package(named):
            with packed(gathered.found) as (hashed, file):
                if hashed != named:
                    raise SpecError("a file was changed meanwhile", where="runtime.working_dir", remedy="submit again")
                client.send_package(hashed, file)
    return client.submit(gathered.spec, again=again, secrets=secrets)


def secrets_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """The values that a spec takes from this environment.

    Raises:
        SpecError: One isn't set.
    """
    names = [name for name, value in ((spec.get("runtime") or {}).get("env") or {}).items() if value is None]
    if lacking := [name for name in names if name not in os.environ]:
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
