"""A chat request as the endpoint understands it; what it doesn't understand is refused, never ignored."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tandem.serving.api_errors import ApiError, bad_request

# Parameters of OpenAI's that change nothing when they have one of these values; with any other they are refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "parallel_tool_calls": (),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn; content in parts is joined."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return "".join(_Part.model_validate(part).text for part in value)


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    include_usage: bool = False


class RetrievalOptions(BaseModel):
    """This request's own retrieval; there is no field for a tenant, which the key alone decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    top_k: int | None = Field(None, ge=1, le=100)


class ChatRequest(BaseModel):
    """The body of ``POST /v1/chat/completions``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    messages: tuple[Message, ...] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="default 0: greedy, as answers are compared")
    top_p: float | None = Field(None, gt=0, le=1)
    stop: tuple[str, ...] = Field((), max_length=4)
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    retrieval: RetrievalOptions | None = Field(RetrievalOptions(), description="false: an answer without passages")

    @field_validator("retrieval", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return (RetrievalOptions() if value else None) if isinstance(value, bool) else value

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("a stop string can't be empty")
        return value

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, value: tuple[Message, ...]) -> tuple[Message, ...]:
        if value[-1].role != "user" or not value[-1].content.strip():
            raise ValueError("the last message must be the user's, and not empty")
        return value

    @property
    def question(self) -> str:
        """The last user message: what is answered, and what is searched for."""
        return self.messages[-1].content

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a streamed answer ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def top_k(self, usual: int) -> int | None:
        """Passages to retrieve; None for an answer without retrieval."""
        return None if self.retrieval is None else self.retrieval.top_k or usual

    def answer_tokens(self, *, usual: int, most: int) -> int:
        """Tokens of the answer, at most."""
        return min(self.max_completion_tokens or self.max_tokens or usual, most)


def parse(body: bytes) -> ChatRequest:
    """Read and check a request's body.

    Raises:
        ApiError: 400, naming the first thing that is wrong with it.
    """
    try:
        data = json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise bad_request("The request's body isn't JSON.") from None
    if not isinstance(data, dict):
        raise bad_request("The request's body must be a JSON object.")
    for name, accepted in NEUTRAL.items():
        if name in data:
            value = data.pop(name)
            if value is not None and value not in accepted:
                raise bad_request(f"{name} isn't supported here.", param=name, code="unsupported_parameter")
    # Clients send null for what they leave open.
    given = {name: value for name, value in data.items() if value is not None}
    try:
        return ChatRequest.model_validate(given)
    except ValidationError as error:
        raise _first_fault(error) from None


def _first_fault(error: ValidationError) -> ApiError:
    detail = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return bad_request(f"Unknown parameter: {param}.", param=param, code="unknown_parameter")
    if detail["type"] == "missing":
        return bad_request(f"Missing parameter: {param}.", param=param, code="missing_required_parameter")
    message = detail["msg"].removeprefix("Value error, ")
    return bad_request(f"{param}: {message[:1].lower()}{message[1:]}.", param=param, code="invalid_value")
