"""The endpoint as Ray Serve runs it, called with the official client; tiny random weights, real retrieval."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from stand_ins.documents import ADAPTERS, DOCUMENTS, eventually
from stand_ins.otlp_collector import Collector
from stand_ins.replicas import replicas
from stand_ins.upstream import running as upstream
from tiny_models import write_adapter, write_llama

from tandem.config.cluster import STORAGE_VARIABLE, Cluster
from tandem.config.machine import read_processor
from tandem.errors import ModelError
from tandem.models.engines import GenerationRequest, open_engine
from tandem.models.engines.hardware import vllm_obstacle
from tandem.orchestrator.deploying.deployer import Deployer
from tandem.orchestrator.deploying.releases import Releases
from tandem.orchestrator.processes import free_port
from tandem.orchestrator.ray_jobs import HttpRayJobs
from tandem.orchestrator.records import Records
from tandem.serving.openapi import document
from tandem.specs.compare import EngineSpec

APP = "rag"


def engine_processes(storage: Path) -> list[psutil.Process]:
    """vLLM's processes that belong to this test's cluster."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(STORAGE_VARIABLE) == str(storage)
            if ours and "VLLM" in " ".join([process.name(), *process.cmdline()]):
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass(frozen=True)
class Deployed:
    """The application under test, and the way to change it."""

    url: str
    deployer: Deployer
    args: dict[str, Any]

    def deploy(self, **changes: Any) -> None:
        """Deploy with other arguments, and wait until they count."""
        application = {"name": APP, "route_prefix": "/", "import_path": "tandem.serving.app:build"}
        self.deployer.deploy({"applications": [{**application, "args": {**self.args, **changes}}]})

        def runs() -> bool:
            (status,) = [app for app in self.deployer.status() if app.name == APP]
            assert status.verdict != "failed", status.message
            return status.verdict == "running"

        assert eventually(runs, within_s=400)


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def deployed(request: pytest.FixtureRequest, indexed: Cluster, endpoint_models: dict[str, Path]) -> Iterator[Deployed]:
    from ray import serve

    if request.param == "vllm" and (obstacle := vllm_obstacle(read_processor())):
        pytest.skip(obstacle)
    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    # Another test may have started Serve before us: its port is the one that counts.
    port = serve.context._get_global_client().http_config.port
    args: dict[str, Any] = {
        "kind": "rag",
        "name": "app",
        "model": str(endpoint_models["base"]),
        "adapters": [{"name": name, "uri": str(endpoint_models[name])} for name in ADAPTERS],
        "default_model": "tuned",
        "retriever": {"collection": "serving-docs", "top_k": 2},
        "engine": {"name": request.param, "max_model_len": 512},
        "limits": {"default_max_tokens": 16},
    }
    records = Records(indexed.database_url)
    deployer = Deployer(indexed, HttpRayJobs(indexed), Releases(records.database))
    application = Deployed(f"http://127.0.0.1:{port}", deployer, args)
    application.deploy()
    yield application
    serve.delete(APP)
    records.close()
    assert eventually(lambda: not engine_processes(indexed.storage), within_s=60), "vLLM outlives its replica"


@pytest.fixture
def endpoint(deployed: Deployed) -> str:
    return deployed.url


@pytest.fixture
def client(endpoint: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint}/v1", api_key="key-of-all", max_retries=0)


def ask(client: openai.OpenAI, **options: Any) -> Any:
    messages = [{"role": "user", "content": "What does the quick brown fox do?"}]
    return client.chat.completions.create(**{"model": "app", "messages": messages, "max_tokens": 12, **options})


def prompt(question: str) -> list[dict[str, str]]:
    """What the application makes of a question without documents."""
    system = "Answer the question as briefly as you can. Give the answer alone, without explanation."
    return [{"role": "system", "content": system}, {"role": "user", "content": f"Question: {question}"}]


def test_the_official_client_gets_an_answer_with_citations(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 12
    citations = answer.citations
    assert len(citations) == 2
    for citation in citations:
        assert citation["text"] in DOCUMENTS[citation["source"]]["text"]
        assert set(citation) == {"id", "source", "text", "score", "line", "modified_at"}


def test_a_stream_gives_the_same_text(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    last = next(c for c in chunks if c.choices and c.choices[0].finish_reason)
    assert last.citations == whole.citations


def test_each_model_answers_as_it_does_alone(
    client: openai.OpenAI, endpoint_models: dict[str, Path], tmp_path: Path
) -> None:
    """Base and adapters, mixed in one server, give what transformers gives with that adapter alone."""
    question = "numbers 0 1 2 3"
    engine = open_engine(
        EngineSpec(name="transformers", max_model_len=512),
        endpoint_models["base"],
        {n: endpoint_models[n] for n in ("tuned", "other")},
    )
    messages = prompt(question)
    for name, adapter in {"base": None, "tuned": "tuned", "other": "other", "app": "tuned"}.items():
        alone = engine.generate([GenerationRequest(messages, 12, adapter=adapter)])[0]
        answer = ask(
            client, model=name, messages=[{"role": "user", "content": question}], extra_body={"retrieval": False}
        )
        # A character cut off by the limit is left out by vLLM, and a replacement character for transformers.
        assert answer.choices[0].message.content.rstrip("\ufffd") == alone.text.rstrip("\ufffd"), name
        assert answer.usage.prompt_tokens == alone.prompt_tokens


def test_models_mixed_in_one_batch_answer_as_each_alone(client: openai.OpenAI) -> None:
    """Base and three adapters at once, several requests each, begun together."""

    def one(model: str, number: int) -> str:
        options = {"messages": [{"role": "user", "content": f"numbers {number} 2 3"}], "max_tokens": 12}
        text: str = ask(client, model=model, extra_body={"retrieval": False}, **options).choices[0].message.content
        return text

    asked = [(model, number) for number in range(4) for model in ("base", "tuned", "other", "third")]
    alone = [one(*request) for request in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        together = list(threads.map(lambda request: one(*request), asked))
    assert together == alone
    assert len(set(alone[:4])) == 4  # or they would be one and the same model


def test_adapters_come_and_go_while_requests_run(
    deployed: Deployed, client: openai.OpenAI, endpoint_models: dict[str, Path], tmp_path: Path
) -> None:
    """Added, made the default, replaced by another version and dropped: no request fails, no replica is new."""
    question = "numbers 0 1 2 3"

    def answer(model: str) -> str:
        asked = [{"role": "user", "content": question}]
        options: dict[str, Any] = {"messages": asked, "max_tokens": 12, "extra_body": {"retrieval": False}}
        return str(ask(client, model=model, **options).choices[0].message.content)

    def adapters(**more: Path) -> list[dict[str, str]]:
        return [*deployed.args["adapters"], *({"name": name, "uri": str(path)} for name, path in more.items())]

    stop = threading.Event()

    def keep_asking(model: str) -> set[str]:
        heard = set()
        while not stop.is_set():
            heard.add(answer(model))
        return heard

    def listed() -> list[str]:
        return [model.id for model in client.models.list()]

    fourth = write_adapter(tmp_path / "fourth", endpoint_models["base"], rank=8, seed=3)
    foreign = write_adapter(tmp_path / "foreign", write_llama(tmp_path / "narrow", hidden=64))
    before, pids = {model: answer(model) for model in ("base", *ADAPTERS)}, replicas(APP)
    with ThreadPoolExecutor(5) as threads:
        asking = {model: threads.submit(keep_asking, model) for model in ("app", *before)}
        try:
            deployed.deploy(adapters=adapters(added=fourth), default_model="added")
            assert eventually(lambda: "added" in listed(), within_s=20)
            added = answer("added")
            assert answer("app") == added
            # The same name, other weights.
            deployed.deploy(adapters=adapters(added=endpoint_models["other"]))
            assert eventually(lambda: answer("added") == before["other"], within_s=20)
            with pytest.raises(ModelError, match="not an adapter of this base model"):
                deployed.deploy(adapters=adapters(broken=foreign))
            deployed.deploy()
            assert eventually(lambda: "added" not in listed(), within_s=20)
            with pytest.raises(openai.NotFoundError):
                answer("added")
        finally:
            stop.set()
        heard = {model: future.result() for model, future in asking.items()}
    # The ingress may hear of its default's return a moment after the language model has the other weights.
    assert heard.pop("app") <= {before["tuned"], added, before["other"]}
    assert heard == {model: {text} for model, text in before.items()}
    assert replicas(APP) == pids
    engine = open_engine(EngineSpec(name="transformers", max_model_len=512), endpoint_models["base"], {"added": fourth})
    alone = engine.generate([GenerationRequest(prompt(question), 12, adapter="added")])[0]
    assert added.rstrip("\ufffd") == alone.text.rstrip("\ufffd")
    assert added not in before.values()


def test_a_requests_spans_go_from_deployment_to_deployment(endpoint: str, collector: Collector) -> None:
    trace = uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "Authorization": "Bearer key-of-all"}
    body = {"model": "app", "messages": [{"role": "user", "content": "fox?"}], "max_tokens": 2}
    answer = httpx.post(f"{endpoint}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]

    def told() -> str:
        return " ".join(sorted(span.name for span in collector.spans if span.trace_id.hex() == trace))

    assert eventually(lambda: all(part in told() for part in ("Ingress", "search", "Retriever", "LLM")), within_s=20), (
        told()
    )


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["app", "base", *ADAPTERS, "embedder"]


def test_several_answers_to_one_request(client: openai.OpenAI) -> None:
    alone = ask(client)
    several = ask(client, n=2)
    assert [choice.message.content for choice in several.choices] == [alone.choices[0].message.content] * 2
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens
    sampled = ask(client, n=3, temperature=1.5, seed=4)
    assert len({choice.message.content for choice in sampled.choices}) > 1
    texts = ["", "", ""]
    for chunk in ask(client, n=3, temperature=1.5, seed=4, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in sampled.choices]


def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    text = ask(client).choices[0].message.content
    stopped = ask(client, stop=[text[2]]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == text[: text.index(text[2])]


def test_a_text_is_gone_on_from(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "base", "prompt": "numbers 0 1 2 3", "max_tokens": 12}
    whole = client.completions.create(**options)
    parts = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text
    assert parts[-1].usage == whole.usage
    assert 0 < whole.usage.prompt_tokens < ask(client, extra_body={"retrieval": False}).usage.prompt_tokens
    both = client.completions.create(**{**options, "prompt": [options["prompt"], "other words"]})
    assert both.choices[0].text == whole.choices[0].text
    assert both.choices[1].index == 1


def test_embeddings_are_the_retrievers(client: openai.OpenAI, endpoint_models: dict[str, Path]) -> None:
    from tandem.retrieval.embedding import Embedder

    texts = ["The quick brown fox", "Tandem"]
    expected = Embedder(endpoint_models["embedder"], 8).encode(texts)
    for options in ({}, {"encoding_format": "float"}):  # by itself the client asks for base64, and decodes it
        answer = client.embeddings.create(model="embedder", input=texts, **options)
        assert answer.usage.total_tokens > 0
        for entry, vector in zip(answer.data, expected, strict=True):
            assert entry.embedding == pytest.approx(vector.tolist(), abs=1e-5)


@pytest.mark.skipif(
    find_spec("openvino") is None or read_processor().has_gpu,
    reason="without OpenVINO, or on a GPU, PyTorch embeds",
)
def test_only_what_generates_loads_pytorch(client: openai.OpenAI) -> None:
    ask(client)
    loaded = {
        name: {"libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids}
        for name, pids in replicas(APP).items()
    }
    assert loaded.pop("Ingress") == loaded.pop("Retriever") == {False}
    assert set().union(*loaded.values()) == {True}


async def both_ways(endpoint: str) -> tuple[str, str]:
    async with openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="key-of-all", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "What does the quick brown fox do?"}]
        options: dict[str, Any] = {"model": "app", "messages": messages, "max_tokens": 12}
        whole = await client.chat.completions.create(**options)
        stream = await client.chat.completions.create(**options, stream=True)
        parts = [c.choices[0].delta.content or "" async for c in stream if c.choices]
        return whole.choices[0].message.content or "", "".join(parts)


def test_the_asynchronous_client(endpoint: str) -> None:
    whole, text = asyncio.run(both_ways(endpoint))
    assert whole
    assert text == whole


def test_a_filter_only_narrows(client: openai.OpenAI) -> None:
    def sources(key: str, narrowed: dict[str, Any]) -> set[str]:
        options = {"retrieval": {"top_k": 20, "filter": narrowed}}
        answer = ask(client.with_options(api_key=key), extra_body=options, max_tokens=1)
        return {citation["source"] for citation in answer.citations}

    mine, theirs = "documents.jsonl#1", "documents.jsonl#4"
    assert sources("key-of-acme", {"source": [mine, theirs]}) == {mine}
    assert sources("key-of-acme", {"source": theirs}) == set()
    assert sources("key-of-all", {"source": theirs}) == {theirs}
    with pytest.raises(openai.BadRequestError, match="key alone"):
        sources("key-of-acme", {"tenant": "globex"})


def test_nothing_found_is_said(client: openai.OpenAI) -> None:
    answer = ask(client, extra_body={"retrieval": {"filter": {"source": "absent"}}})
    assert answer.choices[0].message.content == "I found nothing about this in the documents."
    assert answer.usage.total_tokens == 0


def test_a_question_may_follow_others(client: openai.OpenAI) -> None:
    talk = [("user", "What does the fox do?"), ("assistant", "It jumps."), ("user", "When?")]
    answer = ask(client, messages=[{"role": role, "content": text} for role, text in talk])
    assert len(answer.citations) == 2


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "method"), [(p, m) for p, item in document()["paths"].items() for m in item])
def test_whatever_is_sent_is_answered_as_documented(
    endpoint: str, path: str, method: str, mode: GenerationMode
) -> None:
    """schemathesis over the OpenAPI document that the endpoint serves."""
    operation = schemathesis.openapi.from_url(f"{endpoint}/openapi.json")[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        return

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def send(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body |= {"model": "app"} | ({"max_tokens": 2} if "max_tokens" in case.body else {})
        # No schema says that a prompt fits.
        headers = {"Authorization": "Bearer key-of-all"}
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance], timeout=60)

    send()


def test_errors_are_the_official_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, model="absent")
    with pytest.raises(openai.BadRequestError, match="logprobs isn't supported"):
        ask(client, logprobs=True)
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="wrong"))
    with pytest.raises(openai.BadRequestError, match="tokens"):
        ask(client, messages=[{"role": "user", "content": "word " * 2000}])


def test_passages_that_do_not_fit_are_dropped(client: openai.OpenAI) -> None:
    short = ask(client)
    assert len(short.citations) == 2
    crowded = ask(client, max_tokens=512 - short.usage.prompt_tokens + 1)
    assert len(crowded.citations) < 2


def test_a_tenant_never_sees_anothers_documents(client: openai.OpenAI) -> None:
    def sources(key: str) -> set[str]:
        answer = ask(client.with_options(api_key=key), extra_body={"retrieval": {"top_k": 20}}, max_tokens=1)
        return {citation["source"] for citation in answer.citations}

    def owned(tenant: str) -> set[str]:
        return {source for source, row in DOCUMENTS.items() if row["tenant"] == tenant}

    assert sources("key-of-all") == set(DOCUMENTS)
    assert sources("key-of-acme") == owned("acme")
    assert sources("key-of-globex") == owned("globex")


def test_health_and_readiness_need_no_key(endpoint: str) -> None:
    assert httpx.get(f"{endpoint}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{endpoint}/readyz").json() == {"status": "ready", "missing": {}}


def test_requests_at_once_are_all_answered(client: openai.OpenAI) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = ["base", "tuned", "other"] * 4
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: ask(client, model=name).choices[0].message.content, names))
    assert answers[:3] * 4 == answers


@pytest.fixture(scope="module")
def before_upstream(indexed: Cluster, endpoint_models: dict[str, Path]) -> Iterator[Any]:
    """An application whose model is a stand-in over HTTP, which sees its callers leave."""
    from ray import serve

    from tandem.serving.app import build

    with upstream() as behind:
        args = {
            "kind": "rag",
            "name": "app",
            "model": str(endpoint_models["base"]),
            "retriever": {"collection": "serving-docs"},
            "engine": {"name": "upstream", "url": behind.url, "model": "theirs", "max_retries": 0},
        }
        serve.run(build(args), name="leaving", route_prefix="/leaving")
        yield behind
        serve.delete("leaving")


@pytest.mark.parametrize("deployed", ["transformers"], indirect=True)
def test_callers_who_leave_end_their_generations(deployed: Deployed, endpoint: str, before_upstream: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def leave(number: int) -> None:
        content = f"Who is fox {number}?"
        body = {"model": "app", "messages": [{"role": "user", "content": content}], "stream": number % 2 == 0}
        with (
            httpx.Client(timeout=httpx.Timeout(30, read=5), headers=headers) as client,
            pytest.raises(httpx.ReadTimeout),
            client.stream("POST", url, json=body) as response,
        ):
            response.read()

    url, headers = f"{endpoint}/leaving/v1/chat/completions", {"Authorization": "Bearer key-of-all"}
    callers = 12
    before_upstream.faults += ["hangs"] * callers
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(leave, range(callers)))
    assert before_upstream.faults == []
    assert eventually(lambda: before_upstream.open == 0, within_s=10)


@pytest.mark.parametrize("deployed", ["transformers"], indirect=True)
def test_a_refusal_that_quotes_the_prompt_stays_out_of_the_logs(
    deployed: Deployed, endpoint: str, before_upstream: Any
) -> None:
    before_upstream.faults.append(400)
    secret = f"secret-{uuid.uuid4().hex}"
    body = {"model": "app", "messages": [{"role": "user", "content": secret}]}
    headers = {"Authorization": "Bearer key-of-all"}
    refused = httpx.post(f"{endpoint}/leaving/v1/chat/completions", json=body, headers=headers, timeout=30)
    assert refused.status_code == 400
    assert secret in refused.json()["error"]["message"]
    logs = Path(ray_session()) / "logs"
    assert [
        path.name for path in logs.rglob("*") if path.is_file() and secret in path.read_text(errors="replace")
    ] == []


def ray_session() -> str:
    import ray

    return str(ray._private.worker._global_node.get_session_dir_path())
