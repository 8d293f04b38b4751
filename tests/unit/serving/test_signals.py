"""What is told of a request when it has ended."""

from __future__ import annotations

import logging

import pytest
from ray.serve import metrics as serve_metrics
from ray.util import metrics

from tandem.errors import StoreError
from tandem.serving.answers import Searched, Usage
from tandem.serving.signals import (
    ERRORS_SHOWN,
    OTHERS,
    TENANTS_SHOWN,
    Meter,
    Observation,
    QuestionMeter,
    log,
    request_id,
)

pytestmark = pytest.mark.anyio
ASK = {"model": "app", "messages": [{"role": "user", "content": "What is the secret answer?"}]}


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_told_with_what_it_took(endpoint, stream):
    async with endpoint.client("key-of-acme") as client:
        response = await client.post(
            "/v1/chat/completions", json={**ASK, "stream": stream}, headers={"X-Request-Id": "mine-1"}
        )
    assert response.headers["x-request-id"] == "mine-1"
    (seen,) = endpoint.seen
    told = seen.fields()
    assert {key: told[key] for key in ("request", "path", "status", "model", "tenant", "stream")} == {
        "request": "mine-1",
        "path": "/v1/chat/completions",
        "status": 200,
        "model": "app",
        "tenant": "acme",
        "stream": stream,
    }
    assert (told["found"], told["prompt_tokens"], told["completion_tokens"]) == (2, 20, 3)
    assert 0 <= told["search_ms"] <= told["first_piece_ms"] <= told["total_ms"]
    assert "error" not in told


@pytest.mark.parametrize(
    ("key", "body", "status", "error"),
    [
        ("wrong", ASK, 401, "invalid_api_key"),
        ("key-of-all", {**ASK, "model": "x" * 300}, 404, "model_not_found"),
        ("key-of-all", {**ASK, "n": 0}, 400, "invalid_value"),
    ],
)
async def test_a_refusal_is_told_and_makes_no_name_of_its_own(endpoint, key, body, status, error):
    async with endpoint.client(key) as client:
        await client.post("/v1/chat/completions", json=body)
    (seen,) = endpoint.seen
    assert (seen.status, seen.error, seen.model) == (status, error, "")


async def test_what_breaks_is_told_before_and_after_the_status(endpoint):
    endpoint.search.error = StoreError("down")
    async with endpoint.client() as client:
        await client.post("/v1/chat/completions", json=ASK)
        endpoint.search.error = None
        endpoint.llm.error, endpoint.llm.error_after = RuntimeError("boom"), 1
        await client.post("/v1/chat/completions", json={**ASK, "stream": True})
    assert [(seen.status, seen.error) for seen in endpoint.seen] == [(503, "unavailable"), (200, "RuntimeError")]


async def test_probes_are_not_told_and_ids_that_could_forge_a_line_are_replaced(endpoint):
    async with endpoint.client() as client:
        await client.get("/healthz")
        response = await client.get("/v1/models", headers={"X-Request-Id": "a\tb status=200"})
    assert [seen.path for seen in endpoint.seen] == ["/v1/models"]
    assert len(response.headers["x-request-id"]) == 32
    assert request_id(None) != request_id(None)
    assert request_id("x" * 129) != "x" * 129


async def test_the_line_has_the_fields_and_nothing_of_the_prompt(endpoint, caplog):
    caplog.set_level(logging.INFO, "ray.serve.tandem.requests")
    async with endpoint.client() as client:
        await client.post("/v1/chat/completions", json=ASK)
    log(endpoint.seen[0])
    (record,) = caplog.records
    assert record.tandem["status"] == 200
    assert "status=200 model=app tenant=*" in record.message
    assert "secret" not in record.message + str(record.tandem)
    endpoint.seen[0].status = 500
    log(endpoint.seen[0])
    assert [r.levelname for r in caplog.records] == ["INFO", "ERROR"]


class Recorded:
    """In place of Ray's metrics: what was counted, by metric."""

    counted: dict[str, list[tuple[float, dict]]]

    def __init__(self, name: str, *_: object, tag_keys: tuple[str, ...] = (), **__: object) -> None:
        self.name, self.tag_keys = name, tag_keys
        self.defaults: dict = {}

    def set_default_tags(self, tags: dict) -> None:
        self.defaults = tags

    def inc(self, value: float, tags: dict) -> None:
        assert set(tags) | set(self.defaults) == set(self.tag_keys)
        self.counted.setdefault(self.name, []).append((value, tags))

    observe = inc

    def set(self, value: float) -> None:
        self.inc(value, {})


@pytest.fixture
def counted(monkeypatch):
    """What the meters told Ray, by metric."""
    Recorded.counted = {}
    for module in (metrics, serve_metrics):
        for kind in ("Counter", "Gauge", "Histogram"):
            monkeypatch.setattr(module, kind, Recorded)
    return Recorded.counted


async def test_a_stream_that_breaks_is_an_error_though_its_status_was_200(endpoint, counted):
    endpoint.llm.error = RuntimeError("a secret")
    meter = Meter("app")
    async with endpoint.client("key-of-acme") as client:
        for after in (1, 0):
            endpoint.llm.error_after = after
            await client.post("/v1/chat/completions", json={**ASK, "stream": True})
    for seen in endpoint.seen:
        meter(seen)
    assert [tags["status"] for _, tags in counted["tandem_endpoint_requests"]] == ["200", "500"]
    who = {"model": "app", "tenant": "acme", "path": "/v1/chat/completions"}
    assert counted["tandem_endpoint_errors"] == [
        (1, {**who, "kind": "RuntimeError"}),
        (1, {**who, "kind": "internal_error"}),
    ]
    for number in range(2 * ERRORS_SHOWN):
        meter(Observation("id", "/v1/models", status=500, error=f"kind{number}"))
    assert len({tags["kind"] for _, tags in counted["tandem_endpoint_errors"]}) == ERRORS_SHOWN + 1
    meter.in_flight(3)
    meter.keep()
    assert counted["tandem_endpoint_in_flight"] == [(3, {}), (3, {})]


async def test_questions_are_counted_by_whether_their_vectors_were_kept(counted):
    meter = QuestionMeter()
    meter(0, 2)
    meter(3, 2)
    meter(1, 0)  # another retriever's: it began anew
    assert counted["tandem_retriever_questions"] == [(2, {"kept": "no"}), (3, {"kept": "yes"}), (1, {"kept": "yes"})]


async def test_metrics_by_model_and_tenant_with_a_bounded_number_of_tenants(endpoint, counted):
    meter = Meter("app")
    async with endpoint.client("key-of-acme") as client:
        await client.post("/v1/chat/completions", json=ASK)
    meter(endpoint.seen[0])
    who = {"model": "app", "tenant": "acme"}
    assert counted["tandem_endpoint_requests"] == [(1, {**who, "path": "/v1/chat/completions", "status": "200"})]
    assert counted["tandem_endpoint_tokens"] == [(20, {**who, "kind": "prompt"}), (3, {**who, "kind": "completion"})]
    assert counted["tandem_endpoint_searches"] == [(1, {**who, "found": "yes"})]
    for name in ("time_to_first_token", "request", "retrieval", "generation"):
        ((seconds, tags),) = counted[f"tandem_endpoint_{name}_seconds"]
        assert seconds >= 0
        assert tags == who
    for number in range(2 * TENANTS_SHOWN):
        seen = Observation("id", "/v1/models", tenant=f"t{number}", status=200, cached=True)
        seen.searched, seen.usage = Searched(0, 0.1), Usage(1)
        meter(seen)
    tenants = {tags["tenant"] for _, tags in counted["tandem_endpoint_requests"]}
    assert len(tenants) == TENANTS_SHOWN + 1
    assert OTHERS in tenants
    assert counted["tandem_endpoint_searches"][-1][1]["found"] == "no"
    assert len(counted["tandem_endpoint_answer_cache_hits"]) == 2 * TENANTS_SHOWN
