"""What does the endpoint cost over the same retrieval and generation called in process?

The language model is a stand-in that answers at once with a fixed text. One question at a time goes to the endpoint, by
HTTP with a key, through ingress, retriever and language model; then the same question to the same service in this
process, with a retriever of its own before the same store. What the second lacks are the hops; what Ray Serve takes for
as many hops with nothing in them is measured beside, since machines differ in that by a factor of four.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.clusters import KEY, index, serving_cluster
from benchmarks.report import Result, seconds, versions
from benchmarks.texts import paragraphs
from tandem.serving.answers import Piece
from tandem.serving.language_models import LanguageModel
from tandem.specs.search import SearchSpec

if TYPE_CHECKING:
    from tandem.config.cluster import Cluster
    from tandem.models.engines.protocol import GenerationRequest
    from tandem.serving.chat import ChatService

PASSAGES = 300
QUESTIONS = 200
WARM_UP = 20
NAME = "overhead"


def run() -> Result:
    """Ask both, question by question."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        texts = paragraphs(PASSAGES + QUESTIONS)
        with serving_cluster(Path(scratch) / "storage") as cluster:
            index(cluster, NAME, texts[:PASSAGES])
            questions = [" ".join(text.split()[:12]) for text in texts[PASSAGES:]]
            rows = _measure(cluster, questions)
    return Result(
        "overhead",
        "milliseconds of a question with a language model that takes no time",
        {"passages": PASSAGES, "questions": QUESTIONS, "streams": 1},
        versions("ray", "fastapi", "uvicorn"),
        rows,
    )


class NoModel(LanguageModel):
    """Answers with the number of messages, at once."""

    async def generate(self, request: GenerationRequest, stream: bool = True) -> AsyncGenerator[Piece, None]:  # noqa: ARG002
        yield Piece(f"{len(request.messages)} messages", "stop", 1, 1)


class Leaf:
    """The end of a hop."""

    async def answer(self, text: str) -> str:
        return text


class Hops:
    """By HTTP here, then to two others, one after the other."""

    def __init__(self, first: Any, second: Any) -> None:
        self._leaves = (first, second)

    async def __call__(self, request: Any) -> str:
        text = (await request.body()).decode()
        for leaf in self._leaves:
            text = await leaf.answer.remote(text)
        return text


def _measure(cluster: Cluster, questions: list[str]) -> list[dict[str, Any]]:
    import httpx
    from ray import serve

    from tandem.models.loading import model_path
    from tandem.serving.app import assemble
    from tandem.specs.loading import read_yaml
    from tandem.specs.rag import RagSpec

    model = read_yaml(Path(__file__).parents[1] / "jobs" / "finetune.yaml").data["model"]
    # Every question comes three times, and none may find its vector kept.
    fields = {"model": model, "retriever": {"collection": NAME}, "cache": {"embeddings": 0}}
    spec = RagSpec.model_validate({"kind": "rag", "name": NAME, **fields})
    path = model_path(spec.model, storage=cluster.storage)
    llm = serve.deployment(NoModel).options(name="LLM", ray_actor_options={"num_cpus": 0}).bind()
    serve.run(assemble(spec, cluster, path, llm, plain=True), name=NAME, route_prefix="/")
    small = {"ray_actor_options": {"num_cpus": 0}}
    leaves = [serve.deployment(Leaf).options(name=name, **small).bind() for name in ("First", "Second")]
    serve.run(serve.deployment(Hops).options(**small).bind(*leaves), name="hops", route_prefix="/hops")
    times: dict[str, list[float]] = {"endpoint": [], "endpoint, streamed": [], "in process": [], "three empty hops": []}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=cluster.endpoint_url, headers=headers, trust_env=False, timeout=30) as client:

        def ask(question: str, *, stream: bool) -> None:
            body = {"model": NAME, "messages": [{"role": "user", "content": question}], "stream": stream}
            answer = client.post("/v1/chat/completions", content=json.dumps(body))
            if answer.status_code != httpx.codes.OK or "messages" not in answer.text:
                raise SystemExit(f"the endpoint answered {answer.status_code}: {answer.text[:300]}")

        in_process = _in_process(cluster, spec, path)
        for number, question in enumerate([*questions[:WARM_UP], *questions]):
            took = {
                "endpoint": seconds(lambda q=question: ask(q, stream=False)),
                "endpoint, streamed": seconds(lambda q=question: ask(q, stream=True)),
                "in process": seconds(lambda q=question: in_process(q)),
                "three empty hops": seconds(lambda q=question: client.post("/hops", content=q).raise_for_status()),
            }
            if number >= WARM_UP:
                for name, value in took.items():
                    times[name].append(1000 * value)
    bare = statistics.median(times["in process"])
    return [
        {
            "called": name,
            "p50, ms": statistics.median(values),
            "p95, ms": statistics.quantiles(values, n=20)[-1],
            "p50 over in process, ms": statistics.median(values) - bare if name.startswith("endpoint") else "–",
        }
        for name, values in times.items()
    ]


def _in_process(cluster: Cluster, spec: Any, model: Path) -> Callable[[str], None]:
    from tandem.config.machine import limit_threads
    from tandem.models.engines.prompting import load_tokenizer, token_ids
    from tandem.retrieval.retriever import open_retriever
    from tandem.serving.api_keys import Caller
    from tandem.serving.chat import ChatService
    from tandem.serving.requests import ChatRequest
    from tandem.serving.searching import embedding_threads

    limit_threads(embedding_threads())
    retriever = open_retriever(cluster, NAME, quick=True)
    tokenizer = load_tokenizer(model)

    async def search(question: str, how: SearchSpec, **visible: Any) -> Any:
        return retriever.search([question], how, **visible)[0]

    def generate(request: GenerationRequest, *, stream: bool) -> AsyncGenerator[Piece, None]:
        return NoModel().generate(request, stream)

    async def embed(texts: list[str], *, question: bool) -> Any:
        return retriever.embed(texts, question=question)

    service: ChatService = ChatService(
        spec,
        search=search,
        embed=embed,
        generate=generate,
        count=lambda messages: len(token_ids(tokenizer, messages)),
    )

    async def answer(question: str) -> None:
        request = ChatRequest.model_validate({"model": NAME, "messages": [{"role": "user", "content": question}]})
        begun = await service.start(request, Caller(tenant=None))
        async for _ in begun.pieces:
            pass

    loop = asyncio.new_event_loop()
    return lambda question: loop.run_until_complete(answer(question))
