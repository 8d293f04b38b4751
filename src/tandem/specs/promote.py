"""`kind: promote`: a version of a fine-tuned model takes over in an endpoint, if the comparisons let it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tandem.specs.base import Name, Spec, Uri
from tandem.specs.queue import QueueSpec

ARTIFACT_SCHEME = "artifact:"


class PromoteSpec(Spec):
    """What `tandem promote` does, as a job: last in a pipeline, behind the comparison that it asks.

    It runs in the server, needs nothing of the cluster, and ends when the endpoint is up with the version. One that
    doesn't come up is taken back.
    """

    kind: Literal["promote"]
    name: Name
    model: Uri = Field(description="artifact:NAME[@ID] of a finetune job; without @ID the newest when its turn comes")
    app: str | None = Field(
        None, min_length=1, max_length=200, description="the endpoint; default: the one that has the model, or the only"
    )
    canary: float | None = Field(None, gt=0, lt=1, description="only this share of the conversations")
    queue: QueueSpec = Field(
        QueueSpec(),
        description="`max_start_s`, or `max_run_s` if it is less: in which the endpoint must be up. It waits for no "
        "resources: the rest only says whose it is",
    )

    @field_validator("model")
    @classmethod
    def _is_an_artifact(cls, value: str) -> str:
        # In a pipeline it may be what a step makes.
        if not value.startswith((ARTIFACT_SCHEME, "${")):
            raise ValueError(f"{value!r} has no versions: artifact:NAME or artifact:NAME@ID of a finetune job")
        return value

    @property
    def model_and_version(self) -> tuple[str, str | None]:
        """The model's name, and the version if one is named."""
        name, _, version = self.model.removeprefix(ARTIFACT_SCHEME).partition("@")
        return name, version or None
