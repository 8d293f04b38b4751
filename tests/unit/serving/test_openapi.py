"""The OpenAPI document is exact: what it allows is answered as it says, and nothing else happens."""

from __future__ import annotations

import json

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tandem.serving.openapi import document
from tandem.serving.requests import ChatRequest, CompletionRequest, EmbeddingRequest, parse

# Not what a valid body must be answered with: no schema says that a model exists, or that a prompt fits.
EXCLUDED = [positive_data_acceptance]
OPERATIONS = [(path, method) for path, item in document()["paths"].items() for method in item]
AUTHORIZED = {"Authorization": "Bearer key-of-all"}


def test_every_route_is_in_it_and_nothing_else(endpoint):
    def documented(path: str) -> bool:
        return path.startswith("/v1/") or path in ("/healthz", "/readyz")

    routes = {(route.path, method) for route in endpoint.app.routes for method in route.methods if method != "HEAD"}
    stated = {(path, method.upper()) for path, item in document()["paths"].items() for method in item}
    assert stated == {(path, method) for path, method in routes if documented(path)}


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_sent_is_answered_as_documented(endpoint, path, method, mode):
    operation = schemathesis.openapi.from_asgi("/openapi.json", endpoint.app)[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        return

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def send(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = "app"  # or hardly a request would come further than to its model
        case.call_and_validate(headers=AUTHORIZED, excluded_checks=EXCLUDED)

    send()


REQUESTS = {"ChatRequest": ChatRequest, "CompletionRequest": CompletionRequest, "EmbeddingRequest": EmbeddingRequest}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
TAKEN = [
    ("ChatRequest", CHAT),
    ("ChatRequest", {**CHAT, "stop": None, "n": None, "tools": [], "logprobs": False, "retrieval": {"top_k": None}}),
    ("ChatRequest", {**CHAT, "retrieval": {"filter": {"source": ["a", "b"], "page": 3, "draft": False}}}),
    ("ChatRequest", {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]}),
    ("CompletionRequest", {"model": "m", "prompt": ["a", "b"], "suffix": ""}),
    ("EmbeddingRequest", {"model": "m", "input": "a", "encoding_format": None}),
]
REFUSED = [
    ("ChatRequest", {**CHAT, "logprobs": 0}),
    ("ChatRequest", {**CHAT, "n": "1"}),
    ("ChatRequest", {**CHAT, "tenant": "a"}),
    ("ChatRequest", {**CHAT, "retrieval": {"filter": {"a": 1.5}}}),
    ("ChatRequest", {**CHAT, "stop": [""]}),
    ("ChatRequest", {"model": None, "messages": CHAT["messages"]}),
    ("CompletionRequest", {"model": "m", "prompt": [1]}),
    ("EmbeddingRequest", {"model": "m", "input": "a", "dimensions": 3}),
]


@pytest.mark.parametrize(("name", "body", "taken"), [(*c, True) for c in TAKEN] + [(*c, False) for c in REFUSED])
def test_the_schema_takes_what_the_endpoint_takes(name, body, taken):
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == taken
    try:
        parse(REQUESTS[name], json.dumps(body).encode())
    except Exception:  # noqa: BLE001 - whatever it is, the body wasn't taken
        assert not taken
    else:
        assert taken
