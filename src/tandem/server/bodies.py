"""What the API is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Field, WithJsonSchema, model_validator

from tandem.specs import JOB_KINDS, KINDS, PipelineSpec

if TYPE_CHECKING:
    from tandem.specs import Spec

    AnyJob = Spec
else:
    AnyJob = Annotated[Union[tuple(KINDS[kind] for kind in JOB_KINDS)], Discriminator("kind")]  # noqa: UP007


class Body(BaseModel):
    """A body is text that can be written down: JSON may hold halves of surrogate pairs, which no database takes."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, value: Any) -> Any:
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ValueError("the text isn't Unicode: it has half of a surrogate pair") from None
        return value


class Origin(BaseModel):
    """What submits a job, and from which state of the code; all of it is only recorded."""

    model_config = ConfigDict(extra="forbid")

    tandem: str | None = Field(None, max_length=100)
    python: str | None = Field(None, max_length=100)
    git_commit: str | None = Field(None, max_length=100, description="of the folder in which it was called")
    git_changed: bool | None = Field(None, description="whether that folder had changes that aren't committed")


class Plan(Body):
    """The body of a question: what would a pipeline do?"""

    # In the document in full with a submission; twice would be more than readers of schemas can bear.
    spec: Annotated[
        PipelineSpec, WithJsonSchema({"type": "object", "description": "a pipeline's spec, as a submission has it"})
    ]


class Submission(Body):
    """The body of a submission."""

    spec: AnyJob
    again: bool = Field(False, description="run it anew although a job of this name and spec exists")
    origin: Origin = Origin()
    secrets: dict[str, Annotated[str, Field(max_length=100_000, pattern=r"^[^\x00]*$")]] = Field(
        {}, max_length=200, description="values of the variables that `runtime.env` names with null; never recorded"
    )
