"""A job's runtime environment, from its spec to Ray, and the values that stand in no record.

Those lie in a file of their own, for the server alone, from the submission until the job has ended: an attempt after
the server's death needs them too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.config.files import write_whole
from tandem.errors import SpecError
from tandem.orchestrator.packages import Packages
from tandem.specs.runtime import PACKAGE, RuntimeSpec


@dataclass(frozen=True)
class JobSecrets:
    """The folder with the values that jobs took from their submitters' environments."""

    folder: Path

    def keep(self, job_id: str, values: Mapping[str, str]) -> None:
        """Have exactly these for a job."""
        if not values:
            self.forget(job_id)
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_whole(self._path(job_id), json.dumps(dict(values)), private=True)

    def of(self, job_id: str) -> dict[str, str]:
        """A job's values; none where it has none.

        Raises:
            SpecError: They can't be read.
        """
        try:
            data: dict[str, str] = json.loads(self._path(job_id).read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise SpecError(
                "the values for its variables can't be read",
                where=str(self._path(job_id)),
                remedy="submit it with --again from an environment that has them",
            ) from None
        return data

    def forget(self, job_id: str) -> None:
        """A job has ended: it needs none any more."""
        self._path(job_id).unlink(missing_ok=True)

    def forget_all_but(self, job_ids: Collection[str], *, before: float) -> None:
        """Those of jobs that ended while nobody was there to forget them.

        Args:
            job_ids: Of jobs that haven't ended.
            before: What was kept later may be of a job that came since; seconds since the epoch.
        """
        for path in self.folder.glob("*.json"):
            if path.stem not in job_ids and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)

    def _path(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.json"


def runtime_of(spec: Mapping[str, Any]) -> RuntimeSpec:
    """What a job brings along; of one that was submitted before there was a choice, nothing."""
    return RuntimeSpec.model_validate(spec.get("runtime", {}))


def check_submission(spec: Mapping[str, Any], secrets: Collection[str], packages: Packages) -> None:
    """Refuse what a job, or a step of a pipeline, couldn't start with.

    Args:
        spec: Canonical.
        secrets: The variables for which the submitter sent values.
        packages: What working directories are here.

    Raises:
        SpecError: A value is missing or surplus, or a working directory isn't here.
    """
    runtimes = [runtime_of(each) for each in jobs_in(spec)]
    for runtime in runtimes:
        check_runtime(runtime, secrets, packages)
    named = {name for runtime in runtimes for name in runtime.secret_names}
    if surplus := sorted(set(secrets) - named):
        raise SpecError(
            f"values were sent that the spec doesn't name: {', '.join(surplus)}",
            where="runtime.env",
            remedy="name them there, with null",
        )


def jobs_in(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A job's spec, or those of a pipeline's steps."""
    return [step["spec"] for step in spec["steps"].values()] if spec["kind"] == "pipeline" else [spec]


def check_runtime(runtime: RuntimeSpec, secrets: Collection[str], packages: Packages) -> None:
    """Refuse what a job couldn't start with.

    Args:
        runtime: Of its spec.
        secrets: The variables for which there are values.
        packages: What working directories are here.

    Raises:
        SpecError: A value is missing, or the working directory isn't here.
    """
    if lacking := [name for name in runtime.secret_names if name not in secrets]:
        raise SpecError(
            f"no value was sent for {', '.join(lacking)}",
            where="runtime.env",
            remedy="`tandem submit` takes it from the environment in which it is called",
        )
    folder = runtime.working_dir
    if folder is None or (not folder.startswith(PACKAGE) and "://" in folder):
        return
    if not folder.startswith(PACKAGE):
        raise SpecError(
            "a folder of another machine",
            where="runtime.working_dir",
            remedy="`tandem submit` sends it; or PUT /api/v1/packages/SHA256, and name `package:SHA256`",
        )
    if not packages.has(folder.removeprefix(PACKAGE)):
        raise SpecError(
            f"the server has no {folder}", where="runtime.working_dir", remedy="submit it from its folder again"
        )


def runtime_env(
    runtime: RuntimeSpec, ours: Mapping[str, str], secrets: Mapping[str, str], packages: Packages
) -> dict[str, Any]:
    """As Ray's Jobs API takes it.

    Args:
        runtime: Of the job's spec.
        ours: Variables by which it reaches its cluster; no job can change them.
        secrets: The values that stand in no record.
        packages: Where its working directory is.

    Raises:
        SpecError: Something of it isn't here, or no longer.
    """
    check_runtime(runtime, secrets, packages)
    stated = {name: value for name, value in runtime.env.items() if value is not None}
    made: dict[str, Any] = {"env_vars": {**stated, **secrets, **ours}}
    folder = runtime.working_dir
    if folder is not None:
        ours_to_serve = folder.startswith(PACKAGE)
        made["working_dir"] = packages.uri(folder.removeprefix(PACKAGE)) if ours_to_serve else folder
    if runtime.pip:
        made["pip"] = list(runtime.pip)
    return made
