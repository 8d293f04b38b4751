"""What a job brings along: variables, files, packages."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator

from tandem.specs.base import Spec

PACKAGE = "package:"
# How the cluster is reached and which job it is: a job that sets these talks to another cluster, or to none.
_RESERVED = re.compile(r"(RAY|TANDEM)_.*")
_SECRET = re.compile(r"(.*_)?(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|API_?KEY|ACCESS_KEY|PRIVATE_KEY)(_.*)?", re.I)
_WITH_PASSWORD = re.compile(r"://[^/@\s]+@")


class RuntimeSpec(Spec):
    """What a job's driver and workers run with, beside what the cluster has: a runtime environment of Ray's."""

    env: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$")],
        Annotated[str, Field(max_length=100_000)] | None,
    ] = Field(
        {},
        description="variables; null takes the value from the environment of whoever submits the job, and keeps it out "
        "of all records: for tokens and passwords",
    )
    working_dir: str | None = Field(
        None,
        min_length=1,
        description="a folder that travels with the job and is its current folder, without what .gitignore and "
        ".rayignore leave out; relative inputs in it are read from there. Or the URI of a zip file that Ray reads "
        "(https://, s3://, gs://, file://)",
    )
    pip: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(
        (), max_length=200, description="requirements that Ray installs for this job alone"
    )

    @field_validator("env", mode="before")
    @classmethod
    def _numbers_are_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        numbers = {key: str(item) for key, item in value.items() if type(item) in (int, float)}
        return {**value, **numbers}

    @field_validator("env")
    @classmethod
    def _is_ours_to_set(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for name, text in value.items():
            if _RESERVED.fullmatch(name):
                raise ValueError(f"{name}: RAY_… and TANDEM_… say which cluster a job belongs to, and are set for it")
            if text is not None and (_SECRET.fullmatch(name) or _WITH_PASSWORD.search(text)):
                raise ValueError(
                    f"{name} looks like a secret, and specs are recorded: write `{name}: null` (`--env {name}`), which "
                    "takes it from the environment of whoever submits"
                )
            if text is not None and "\0" in text:
                raise ValueError(f"{name}: a variable can't hold a null byte")
        return value

    @field_validator("pip", "working_dir")
    @classmethod
    def _has_no_password(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value or ()
        if any(_WITH_PASSWORD.search(text) for text in texts):
            raise ValueError("an address with a password, and specs are recorded: let the machine's pip.conf have it")
        return value

    @property
    def secret_names(self) -> list[str]:
        """The variables whose values stand in no record."""
        return sorted(name for name, value in self.env.items() if value is None)
