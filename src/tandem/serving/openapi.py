"""The endpoint's OpenAPI document, from the models that read the requests and those below for what is answered."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

import tandem
from tandem.serving.requests import NEUTRAL_OF, ChatRequest, CompletionRequest, EmbeddingRequest

REF = "#/components/schemas/{model}"
FinishReason = Literal["stop", "length"] | None


class _Answered(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Usage(_Answered):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Citation(_Answered):
    """A passage that was in the prompt."""

    id: str
    source: str
    text: str
    score: float
    page: int | None = None
    line: int | None = None
    modified_at: str | None = None


class Said(_Answered):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str


class ChatChoice(_Answered):
    """One answer."""

    index: int
    message: Said
    finish_reason: FinishReason
    logprobs: None


class ChatCompletion(_Answered):
    """A plain answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    citations: list[Citation]


class TextChoice(_Answered):
    """One continuation."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: None


class TextCompletion(_Answered):
    """Continuations of texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class EmbeddingUsage(_Answered):
    """Token counts of an embedding."""

    prompt_tokens: int
    total_tokens: int


class Embedding(_Answered):
    """One vector: numbers, or the bytes of little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(_Answered):
    """Vectors of texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(_Answered):
    """What a request's `model` may name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: Literal["chat", "embedding"]
    adapter: str | None


class Models(_Answered):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Health(_Answered):
    """The process answers."""

    status: Literal["ok"]


class Readiness(_Answered):
    """Whether the parts that a request needs answer."""

    status: Literal["ready", "not ready"]
    missing: dict[str, str]


class Fault(_Answered):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Answered):
    """OpenAI's shape of an error."""

    error: Fault


ANSWERED: tuple[type[BaseModel], ...] = (
    ChatCompletion,
    TextCompletion,
    Embeddings,
    Model,
    Models,
    Health,
    Readiness,
    Error,
)
ERRORS = {
    400: "a parameter is unknown, wrong or unsupported, or what was sent doesn't fit",
    401: "no API key, or none that is known",
    404: "no such model",
    408: "the body wasn't there within the limit",
    413: "the body is larger than the limit",
    429: "too many requests at once, or above the key's limits",
    500: "the endpoint failed",
    503: "a part is starting or restarting",
    504: "no answer within the limit",
}
RATE_HEADERS = {
    f"x-ratelimit-{what}-{of}": {"description": text, "schema": {"type": "string"}}
    for of in ("requests", "tokens")
    for what, text in {
        "limit": f"{of} per minute, where the key has such a limit",
        "remaining": "what is left of it now",
        "reset": "until all of it is there again, as `1.500s`",
    }.items()
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of every path but the chat page."""
    kinds: list[type[BaseModel]] = [ChatRequest, CompletionRequest, EmbeddingRequest]
    modes: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        *[(kind, "validation") for kind in kinds],
        *[(kind, "serialization") for kind in ANSWERED],
    ]
    _, schemas = models_json_schema(modes, ref_template=REF)
    for kind in kinds:
        _as_sent(schemas["$defs"][kind.__name__], NEUTRAL_OF[kind])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tandem",
            "version": tandem.__version__,
            "description": "OpenAI's API, with citations: answers from the passages that the caller may see.",
        },
        "security": [{"key": []}],
        "paths": {
            "/v1/chat/completions": {"post": _asks("chat", ChatRequest, ChatCompletion, streams=True)},
            "/v1/completions": {"post": _asks("complete", CompletionRequest, TextCompletion, streams=True)},
            "/v1/embeddings": {"post": _asks("embed", EmbeddingRequest, Embeddings, streams=False)},
            "/v1/models": {"get": _reads("models", Models, 401)},
            "/v1/models/{name}": {
                "get": _reads("model", Model, 401, 404)
                | {"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]}
            },
            "/healthz": {"get": _reads("health", Health) | {"security": []}},
            "/readyz": {"get": _ready() | {"security": []}},
        },
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _as_sent(schema: dict[str, Any], neutral: dict[str, tuple[Any, ...]]) -> None:
    """A request's schema as the endpoint reads it: null stands for what is left open, some values change nothing."""
    required = schema.get("required", [])
    for name, property_ in schema["properties"].items():
        kinds = property_.get("anyOf", [])
        if name not in required and {"type": "null"} not in kinds:
            details = {key: property_.pop(key) for key in ("title", "description", "default") if key in property_}
            schema["properties"][name] = {**details, "anyOf": [*(kinds or [property_]), {"type": "null"}]}
    for name, accepted in neutral.items():
        schema["properties"][name] = {
            "description": "any other value is refused",
            "enum": [*accepted, None],
        }


def _asks(name: str, request: type[BaseModel], answer: type[BaseModel], *, streams: bool) -> dict[str, Any]:
    content = _json(answer)
    if streams:
        content |= {"text/event-stream": {"schema": {"type": "string"}}}
    errors = {str(status): _error(status) for status in ERRORS}
    errors["429"]["headers"] = {"Retry-After": {"required": True, "schema": {"type": "string"}}, **RATE_HEADERS}
    return {
        "operationId": name,
        "requestBody": {"required": True, "content": _json(request)},
        "responses": {"200": {"description": "the answer", "headers": RATE_HEADERS, "content": content}, **errors},
    }


def _reads(name: str, answer: type[BaseModel], *errors: int) -> dict[str, Any]:
    found = {"200": {"description": (answer.__doc__ or "").splitlines()[0], "content": _json(answer)}}
    # Whatever is read may fail.
    return {"operationId": name, "responses": found | {str(status): _error(status) for status in (*errors, 500)}}


def _ready() -> dict[str, Any]:
    asked = _reads("ready", Readiness)
    asked["responses"]["503"] = {"description": "what is missing isn't ready", "content": _json(Readiness)}
    return asked


def _error(status: int) -> dict[str, Any]:
    return {"description": ERRORS[status], "content": _json(Error)}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}
