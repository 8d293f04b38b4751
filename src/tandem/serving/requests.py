"""Requests as the endpoint understands them; what it doesn't understand is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails, from_json

from tandem.serving.api_errors import ApiError, bad_request

INT64 = 2**63 - 1
MAX_CHOICES = 128  # OpenAI's; the spec's limits allow fewer
MAX_INPUTS = 2048  # OpenAI's
MAX_MESSAGES = 2048  # a chat template goes through all of them
# Below it a sampled token is the likeliest one anyway, and probabilities overflow.
GREEDY_BELOW = 0.01
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

# Parameters of OpenAI's that change nothing when they have one of these values; with any other they are refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
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
NEUTRAL_COMPLETION: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
NEUTRAL_EMBEDDING: dict[str, tuple[Any, ...]] = {"dimensions": ()}

Text = Annotated[str, Field(min_length=1)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$", max_length=100)]
Whole = Annotated[int, Field(ge=-INT64, le=INT64)]
Alternatives = Annotated[list[str], Field(min_length=1, max_length=100)]
WholeAlternatives = Annotated[list[Whole], Field(min_length=1, max_length=100)]


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = STRICT
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn; content in parts is joined."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """What was said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = STRICT
    include_usage: bool = False


class RetrievalOptions(BaseModel):
    """This request's own retrieval; there is no field for a tenant, which the key alone decides."""

    model_config = STRICT
    top_k: int | None = Field(None, ge=1, le=100)
    filter: dict[FieldName, str | bool | Whole | Alternatives | WholeAlternatives] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="fields of a chunk that must have this value, or one of a list of values; it can only narrow",
    )

    @field_validator("filter")
    @classmethod
    def _leaves_the_tenant_alone(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if any(name.split(".")[0] == "tenant" for name in value or ()):
            raise ValueError("the API key alone decides the tenant")
        return value


class Sampling(BaseModel):
    """What chat and text completions have in common."""

    model_config = STRICT

    model: str
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    temperature: float | None = Field(None, ge=0, le=2, description="default 0: greedy, as answers are compared")
    top_p: float | None = Field(None, gt=0, le=1)
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    seed: Whole | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The answer ends before the first of these."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def effective_temperature(self) -> float:
        """The temperature; 0 for greedy decoding."""
        return self.temperature if self.temperature and self.temperature >= GREEDY_BELOW else 0.0

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether a streamed answer ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampling):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    metadata: dict[str, str] | None = None
    retrieval: bool | RetrievalOptions = Field(True, description="false: an answer without passages")

    @field_validator("messages")
    @classmethod
    def _ends_with_a_question(cls, value: list[Message]) -> list[Message]:
        if value[-1].role != "user" or not value[-1].text.strip():
            raise ValueError("the last message must be the user's, and not empty")
        return value

    @property
    def question(self) -> str:
        """The last user message: what is answered."""
        return self.messages[-1].text

    @property
    def conversation(self) -> str:
        """The same for all requests of one conversation: its user, else its first user message."""
        return self.user or next(message.text for message in self.messages if message.role == "user")

    @property
    def passages(self) -> RetrievalOptions | None:
        """How to retrieve; None for an answer without retrieval."""
        if isinstance(self.retrieval, bool):
            return RetrievalOptions() if self.retrieval else None
        return self.retrieval

    @property
    def wanted_tokens(self) -> int | None:
        """Tokens of the answer, at most, if the request says so."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Sampling):
    """The body of ``POST /v1/completions``: the model goes on from a text, without chat template or retrieval."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)]

    @property
    def prompts(self) -> list[str]:
        """One text or several; each has `n` choices."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def conversation(self) -> str:
        """Whose text it is, else its beginning."""
        return self.user or self.prompts[0]

    @property
    def wanted_tokens(self) -> int | None:
        """Tokens of the answer, at most, if the request says so."""
        return self.max_tokens


class EmbeddingRequest(BaseModel):
    """The body of ``POST /v1/embeddings``."""

    model_config = STRICT

    model: str
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "passage"] = Field(
        "passage", description="which of the embedder's prompts is put before each text, if it has any"
    )
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """One text or several."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


R = TypeVar("R", ChatRequest, CompletionRequest, EmbeddingRequest)
NEUTRAL_OF: dict[type[BaseModel], dict[str, tuple[Any, ...]]] = {
    ChatRequest: NEUTRAL,
    CompletionRequest: NEUTRAL_COMPLETION,
    EmbeddingRequest: NEUTRAL_EMBEDDING,
}


def parse(kind: type[R], body: bytes) -> R:
    """Read and check a request's body.

    Args:
        kind: What is asked of this path.
        body: JSON.

    Raises:
        ApiError: 400, naming the first thing that is wrong with it.
    """
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise bad_request("The request's body isn't JSON.") from None
    if not isinstance(data, dict):
        raise bad_request("The request's body must be a JSON object.")
    for name, accepted in NEUTRAL_OF[kind].items():
        if name in data:
            value = data.pop(name)
            if value is not None and not any(_same(value, one) for one in accepted):
                raise bad_request(f"{name} isn't supported here.", param=name, code="unsupported_parameter")
    # Clients send null for what they leave open.
    given = {name: value for name, value in data.items() if value is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _fault(error, given) from None


def _same(value: Any, accepted: Any) -> bool:
    # In Python False == 0; in JSON they are two things.
    return isinstance(value, bool) == isinstance(accepted, bool) and bool(value == accepted)


def _fault(error: ValidationError, given: dict[str, Any]) -> ApiError:
    # A value that may be of several types has a fault for each: the one that got furthest is what was meant.
    faults = [(_path(fault, given), fault) for fault in error.errors(include_url=False, include_input=False)]
    path, detail = max((f for f in faults if f[0][:1] == faults[0][0][:1]), key=lambda fault: len(fault[0]))
    param = ".".join(path)
    if detail["type"] == "extra_forbidden":
        return bad_request(f"Unknown parameter: {param}.", param=param, code="unknown_parameter")
    if detail["type"] == "missing":
        return bad_request(f"Missing parameter: {param}.", param=param, code="missing_required_parameter")
    message = detail["msg"].removeprefix("Value error, ")
    return bad_request(f"{param}: {message[:1].lower()}{message[1:]}.", param=param, code="invalid_value")


def _path(fault: ErrorDetails, given: Any) -> list[str]:
    """Where in the request: pydantic's location without the names of the types that it tried."""
    path = []
    step: Any
    for step in fault["loc"]:
        if (isinstance(given, list) and isinstance(step, int)) or (isinstance(given, dict) and step in given):
            given = given[step]
        else:
            continue
        path.append(str(step))
    return [*path, str(fault["loc"][-1])] if fault["type"] == "missing" else path
